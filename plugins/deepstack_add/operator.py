"""The operator's definition: its name, and what it computes, in numpy."""

from __future__ import annotations

import numpy as np

DOMAIN = "qwen3vl"
NAME = "DeepstackAdd"
VERSION = 1


def deepstack_add(hidden: np.ndarray, token_ids: np.ndarray, visual_rows: np.ndarray, *,
                  level: int, vocab_size: int) -> np.ndarray:
    """Add each visual token's row of one level to its hidden state; ordinary tokens stay as they are.

    `out[t] = hidden[t] + visual_rows[token_ids[t] - vocab_size + level]` where `token_ids[t] >= vocab_size`,
    else `hidden[t]`. A row outside the table adds nothing, so an empty table makes the operator the identity.

    Args:
        hidden: hidden states, float [..., H].
        token_ids: integer [...], the same leading shape as `hidden`.
        visual_rows: the table, float [R, H]; the rows of one visual token are adjacent.
        level: 0 for the embedding, k + 1 for the DeepStack level added after decoder layer k.
        vocab_size: the first token id that means a visual token.

    Returns:
        A new array with the shape and dtype of `hidden`.
    """
    index = token_ids.astype(np.int64) - vocab_size + level
    known = (token_ids >= vocab_size) & (index < len(visual_rows))
    out = hidden.copy()
    out[known] += visual_rows[index[known]]
    return out
