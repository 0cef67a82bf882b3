"""A job on its way through the encoder of the encode side."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from triton_repo.handoff.job import EncodeJob


class EncodeTask:
    """What an encoder gets.

    Attributes:
        job: what is to be encoded.
    """

    def __init__(self, job: EncodeJob, on_rows: Callable[[np.ndarray | Exception], None]) -> None:
        self.job = job
        self._on_rows = on_rows
        self._cancelled = threading.Event()

    def cancelled(self) -> bool:
        """Whether nobody waits for the rows any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Nobody waits for the rows any more. What waited for them is let go of: it holds this task in turn, and two
        that hold each other keep a file in memory until the garbage collector looks at what has lived for long."""
        self._cancelled.set()
        self._on_rows = _forget

    def deliver(self, rows: np.ndarray | Exception) -> None:
        """Hand over the rows [(1 + D) * tokens, hidden], or why there are none. To be called once, from any thread;
        nothing comes of it if the task is cancelled."""
        self._on_rows(rows)


def _forget(rows: np.ndarray | Exception) -> None:
    """For rows that come too late."""


# Gets tasks; must return soon.
Encoder = Callable[[EncodeTask], None]
