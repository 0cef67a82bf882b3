"""The states of a transfer, the same on both sides."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """Numbers as in the design that this protocol grew from.

    Attributes:
        FAILED: there will be no rows.
        BOOTSTRAPPING: the two sides have not heard of each other, or not again after a break.
        WAITING: for the vision encoder.
        TRANSFERRING: rows are there, blocks on their way.
        SUCCESS: all rows arrived, and the sender need not keep them.
    """

    FAILED = 0
    BOOTSTRAPPING = 1
    WAITING = 2
    TRANSFERRING = 3
    SUCCESS = 4

    @property
    def over(self) -> bool:
        return self in (State.FAILED, State.SUCCESS)
