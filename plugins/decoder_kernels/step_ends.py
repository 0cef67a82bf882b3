"""The definitions of StepInputs and TopLogits, the operators at a step's ends, in numpy.

A step's TopLogits chooses tokens that the next step's StepInputs looks up, so that nobody in between has to know them.
"""

from __future__ import annotations

import numpy as np


def step_inputs(token_ids: np.ndarray, chosen: np.ndarray, table: np.ndarray, position_ids: np.ndarray,
                axes: np.ndarray, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the layers take of each token.

    Args:
        token_ids: int32 [B, S]; -1 - r, below 0, stands for the id `chosen[r]`.
        chosen: int64 [P], what `top_logits` chose in an earlier step.
        table: the embedding, float [V, H].
        position_ids: int32 [3, B, S].
        axes: int64 [F]: on which axis, 0, 1 or 2, each frequency turns with the position.
        frequencies: float32 [F].

    Returns:
        float [B, S, H], rows of the embedding, zeros for an id that it has no row for, or that stands for none of
        `chosen`; float32 [B, S, F] both, cosines and sines of M-RoPE's angles.
    """
    places = -1 - token_ids.astype(np.int64)
    of_none = len(chosen)
    stands = np.append(chosen, -1)[np.where((places >= 0) & (places < of_none), places, of_none)]
    ids = np.where(token_ids < 0, stands, token_ids)
    known = (ids >= 0) & (ids < len(table))
    hidden = table[np.where(known, ids, 0)] * known[..., None].astype(table.dtype)
    angles = np.moveaxis(position_ids[axes].astype(np.float32), 0, -1) * frequencies
    return hidden, np.cos(angles), np.sin(angles)


def top_logits(logits: np.ndarray, draws: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k largest logits of each row, and one of them, drawn.

    Args:
        logits: float32 [N, V].
        draws: float64 [N, 4]: temperature, 0 for the largest logit; top_k, a whole number, 0 or more than k for all k;
            top_p, 1 for all; a random number in [0, 1).

    Returns:
        float32 [N, k], the largest first; int64 [N, k], their places, of equal ones the first first; int64 [N], the
        places of those drawn. With logits that are NaN or infinite, any of the row's k is drawn.
    """
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    best = np.take_along_axis(logits, ids, -1)
    return best, ids, np.array([chosen_token(*row) for row in zip(best, ids, draws, strict=True)], np.int64)


def chosen_token(logits: np.ndarray, ids: np.ndarray, draw: np.ndarray) -> int:
    """One row's choice in `top_logits`. Every sum is taken in float64, one number after another.

    Args:
        logits: float32 [k], the largest first.
        ids: int64 [k], theirs.
        draw: float64 [4].
    """
    temperature, top_k, top_p, uniform = draw
    if temperature == 0:
        return int(ids[0])
    count = int(top_k) if 1 <= top_k < len(ids) else len(ids)
    with np.errstate(invalid="ignore"):  # infinite logits have no difference
        scaled = logits[:count].astype(np.float64) / temperature
        shares = np.exp(scaled - scaled[0])
    if top_p < 1:
        sums = np.cumsum(shares)
        count = 1 + np.count_nonzero(~(sums[:-1] >= top_p * sums[-1]))
    order = np.argsort(ids[:count])
    sums = np.cumsum(shares[order])
    place = np.count_nonzero(~(sums > uniform * sums[-1]))
    return int(ids[order[min(place, count - 1)]])  # the product can round up to the total itself
