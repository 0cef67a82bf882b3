"""Made-up records of requests."""

from __future__ import annotations

from bench.serve.record import Record


def answered(index: int, due: float, first: float, gap: float, tokens: int, prompt: int = 10) -> Record:
    """An answer that comes in pieces of one token: the first after `first` seconds, others after `gap` each."""
    pieces = [(due + first + gap * i, i + 1) for i in range(tokens)]
    return Record(index, due, due + 0.001, pieces[-1][0], pieces, "x" * tokens, prompt, "length")
