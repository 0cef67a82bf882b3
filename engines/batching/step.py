"""A decode step that a decoder has begun, and may be computing still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engines.batching.logit_row import HostRow, LogitRow


class BegunStep(Protocol):
    """To be read before the step after the next one begins, but for rows' `all`: before the next one."""

    def wait(self) -> None:
        """Until it is computed."""

    def rows(self) -> Sequence[LogitRow]:
        """Each sequence's logits, once they are there."""

    def chosen(self) -> list[int]:
        """The tokens that the decoder chose by the step's draws, once they are there; for decoders that run ahead."""


class FinishedStep:
    """One that was computed when it was begun."""

    def __init__(self, rows: Sequence[HostRow]):
        self._rows = rows

    def wait(self) -> None:
        """It is computed."""

    def rows(self) -> Sequence[HostRow]:
        return self._rows

    def chosen(self) -> list[int]:
        raise NotImplementedError("this decoder leaves the choice to whoever runs it")
