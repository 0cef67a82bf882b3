"""What tells the visual tokens of different pictures apart, whose token ids are equal."""

from __future__ import annotations

import hashlib

import numpy as np


def extra_ids(token_ids: np.ndarray, position_ids: np.ndarray, rows: np.ndarray, vocab_size: int,
              rows_per_token: int) -> np.ndarray:
    """An id for each token beside its own, for TensorRT-LLM's reuse of cached keys and values.

    A block of the cache is used again for a prompt that begins with the same pairs of token id and extra id
    (`UniqueToken`, cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp). Keys and values of a prompt depend on the
    tokens, on the rows of visual tokens and on the positions, which follow from the pictures' shapes: the extra id of a
    visual token is a hash of the rows and positions of the run of visual tokens that it is in; 0 marks words.

    Args:
        token_ids: int32 [S].
        position_ids: int32 [3, S].
        rows: [R, bytes], the request's prompt table in the engine's element type, seen as bytes.
        rows_per_token: 1 + D.

    Returns:
        uint64 [S].
    """
    ids = np.zeros(len(token_ids), np.uint64)
    visual = token_ids >= vocab_size
    borders = np.flatnonzero(np.diff(visual, prepend=False, append=False)).reshape(-1, 2)
    for start, end in borders.tolist():
        first = token_ids[start:end, None] - vocab_size + np.arange(rows_per_token)
        positions = position_ids[:, start:end] - position_ids[0, start]
        digest = hashlib.blake2b(np.ascontiguousarray(positions, np.int32), digest_size=8)
        digest.update(np.ascontiguousarray(rows[first.reshape(-1)]))
        ids[start:end] = max(1, int.from_bytes(digest.digest(), "little"))
    return ids
