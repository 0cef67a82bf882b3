"""What rounding does to the choice of the next token: it says more of quantised weights than differences do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engines.fidelity.comparison import Result

# An engine's figure may be this many times that of the reference with rounded weights, and a little more.
FACTOR, MARGIN = 2, 0.05


def next_token_results(case: str, actual: np.ndarray, rounded: np.ndarray, exact: np.ndarray) -> Iterator[Result]:
    """What quantised weights change, measured against the reference without rounding; of float weights, nothing.

    Args:
        actual, rounded, exact: logits [S, V] of the engine, of the reference with rounded weights, and of the
            reference; the last [0, V] where the engine's weights are not quantised.
    """
    if not len(exact):
        return
    for level, figure in (("divergence from unquantised weights, nats", divergence),
                          ("other choices than with unquantised weights", changed_choices)):
        error, limit = figure(actual, exact), FACTOR * figure(rounded, exact) + MARGIN
        yield Result(case, level, error <= limit, error, limit)


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
