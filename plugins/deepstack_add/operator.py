"""The operator's definition: its name, its inputs and attributes, and what it computes, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DOMAIN = "qwen3vl"
NAME = "DeepstackAdd"
VERSION = 1

# The TensorRT plugin is registered under the operator's own name, domain and version.
PLUGIN_NAMESPACE = DOMAIN
PLUGIN_VERSION = str(VERSION)

NO_ROW = -1


@dataclass(frozen=True)
class Argument:
    """One input or output: its name, the element types an engine has to take, its shape with symbolic sizes."""

    name: str
    types: tuple[str, ...]
    shape: str


FLOAT_TYPES = ("float32", "float16", "bfloat16")  # of one call, `hidden`, `visual_rows` and `out` have the same
INPUTS = (Argument("hidden", FLOAT_TYPES, "[..., H]"),
          Argument("token_ids", ("int32",), "[...]"),
          Argument("visual_rows", FLOAT_TYPES, "[R, H]"))
OUTPUT = Argument("out", FLOAT_TYPES, "[..., H]")
ATTRIBUTES = ("level", "vocab_size")  # int32; level >= 0, vocab_size >= 1


def row_index(token_ids: np.ndarray, *, level: int, vocab_size: int, row_count: int) -> np.ndarray:
    """The table row that each token adds, `NO_ROW` for a token that adds none: int64, shaped like `token_ids`.

    `id - vocab_size + level` where the id is `vocab_size` or more and that row is in the table.
    """
    row = token_ids.astype(np.int64) - vocab_size + level
    return np.where((token_ids >= vocab_size) & (row < row_count), row, NO_ROW)


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
    row = row_index(token_ids, level=level, vocab_size=vocab_size, row_count=len(visual_rows))
    known = row != NO_ROW
    out = hidden.copy()
    out[known] += visual_rows[row[known]]
    return out
