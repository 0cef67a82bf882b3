"""Ctrl-C during a measurement."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interruption:
    """Takes the first Ctrl-C as a wish to end early, wherever it comes; a second one raises KeyboardInterrupt.

    A context manager of the main thread.

    Attributes:
        requested: whether there has been one.
    """

    def __init__(self) -> None:
        self.requested = False
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> Interruption:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    @contextmanager
    def stops(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` at Ctrl-C, at once if there has been one."""
        self._stop = stop
        if self.requested:
            stop()
        try:
            yield
        finally:
            self._stop = None

    def _on_signal(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._stop:
            self._stop()
