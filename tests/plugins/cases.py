"""Random operands of DeepstackAdd, of all the kinds that the operator has to take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Case:
    """hidden [..., H], token_ids [...], visual_rows [R, H] and the attributes of one call."""

    hidden: np.ndarray
    token_ids: np.ndarray
    visual_rows: np.ndarray
    level: int
    vocab_size: int

    @property
    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.hidden, self.token_ids, self.visual_rows

    @property
    def attributes(self) -> dict[str, int]:
        return {"level": self.level, "vocab_size": self.vocab_size}


@st.composite
def cases(draw: st.DrawFn, float_type: type = np.float32, id_type: type = np.int32) -> Case:
    """Packed and padded sequences; ordinary, visual and out-of-range ids; rows that no id names are NaN."""
    shape = draw(st.sampled_from([(0,), (1,), (7,), (1, 1), (2, 5), (3, 0)]))
    width, row_count = draw(st.integers(1, 9)), draw(st.sampled_from([0, 1, 4, 12]))
    level, vocab_size = draw(st.integers(0, 3)), draw(st.sampled_from([1, 100, 151936]))
    count = int(np.prod(shape))
    visual = st.integers(vocab_size, vocab_size + row_count + 3)
    extreme = st.sampled_from([INT32.min, INT32.min + 1, -1, vocab_size - 1, INT32.max - 1, INT32.max])
    ids = draw(st.lists(st.integers(0, vocab_size - 1) | visual | extreme, min_size=count, max_size=count))
    token_ids = np.array(ids, dtype=id_type).reshape(shape)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hidden = random.standard_normal((*shape, width)).astype(float_type)
    visual_rows = np.full((row_count, width), np.nan, dtype=float_type)
    for token_id in ids:
        row = token_id - vocab_size + level
        if token_id >= vocab_size and row < row_count:
            visual_rows[row] = random.standard_normal(width)
    return Case(hidden, token_ids, visual_rows, level, vocab_size)
