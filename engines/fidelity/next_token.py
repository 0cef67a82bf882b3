"""What rounding does to the choice of the next token: it says more of quantised weights than differences do."""

from __future__ import annotations

import numpy as np


def divergence(actual: np.ndarray, expected: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence, in nats, of next-token distributions from the expected ones; logits [S, V]."""
    q, p = _log_softmax(actual), _log_softmax(expected)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def changed_choices(actual: np.ndarray, expected: np.ndarray) -> float:
    """Share of positions whose most likely token is another one; logits [S, V]."""
    return float((actual.argmax(axis=-1) != expected.argmax(axis=-1)).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
