"""Slots of transfers that have ended on the language side, but of which the sender has not said that it forgot them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from triton_repo.handoff.messages import Message


class Quarantine:
    """Keeps slots until `Closed`; used from any thread.

    Args:
        free: called with slots that may be used again.
    """

    def __init__(self, free: Callable[[tuple[int, ...]], None]) -> None:
        self._free = free
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Message, tuple[int, ...]]] = {}

    def __contains__(self, transfer: str) -> bool:
        return transfer in self._kept

    def add(self, transfer: str, closing: Message, slots: tuple[int, ...]) -> None:
        """A transfer has ended; `closing` was said."""
        with self._lock:
            self._kept[transfer] = (closing, slots)

    def closed(self, transfer: str) -> None:
        """The sender has forgotten it."""
        with self._lock:
            _, slots = self._kept.pop(transfer, (None, ()))
        if slots:
            self._free(slots)

    def pending(self) -> list[Message]:
        """What to say again, in case it was lost."""
        with self._lock:
            return [closing for closing, _ in self._kept.values()]
