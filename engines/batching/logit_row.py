"""Logits of one sequence's next token, which may be in a device's memory still."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class LogitRow(Protocol):
    """To be read before the decoder's next step."""

    def likeliest(self) -> int:
        """Id of the most likely token, the first of equal ones."""

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids and logits, float32, of the `count` most likely tokens, the best first; None where `all` has to do."""

    def all(self) -> np.ndarray:
        """Float32 [V]."""


class HostRow:
    """Logits that are here."""

    def __init__(self, logits: np.ndarray):
        self._logits = logits

    def likeliest(self) -> int:
        return int(self._logits.argmax())

    def best(self, count: int) -> None:
        """There is nothing to be saved."""

    def all(self) -> np.ndarray:
        return self._logits
