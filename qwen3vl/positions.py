"""Positions: M-RoPE for the decoder, rotary and learned (interpolated) positions for the vision encoder.

Patches are always in merge-block order: the `merge x merge` patches of one visual token are neighbours, and the blocks
go row by row. The values equal those of `transformers` exactly, the interpolation weights to the bit.
"""

from __future__ import annotations

import numpy as np

from qwen3vl.errors import InvalidRequest


def mrope_positions(visual: np.ndarray, grids: np.ndarray, merge: int) -> tuple[np.ndarray, int]:
    """Temporal, row and column position of every token of one prompt.

    A text token has one position on all three axes. The tokens of a frame share the temporal position and count rows
    and columns from it; the text behind a frame goes on after the frame's longer side. Each frame of a video is placed
    like an image, because timestamps stand between them (Qwen3-VL technical report; `get_rope_index` of the reference).

    Args:
        visual: bool [S], true where the token is a visual one.
        grids: int [n, 3], (frames, rows, columns) in patches of each image or video, in order of appearance.
        merge: side of the square of patches that makes one visual token.

    Returns:
        position_ids int32 [3, S], and rope_delta: the position of the first generated token minus S.

    Raises:
        InvalidRequest: the visual tokens do not lie as the grids say.
    """
    frames = [(int(h) // merge, int(w) // merge) for t, h, w in np.asarray(grids).reshape(-1, 3) for _ in range(int(t))]
    visual = np.asarray(visual, dtype=bool)
    where = np.flatnonzero(visual)
    expected = sum(rows * columns for rows, columns in frames)
    if where.size != expected:
        raise InvalidRequest(f"the prompt has {where.size} visual tokens, expected {expected} for grids "
                             f"{np.asarray(grids).tolist()} (frames, rows, columns in patches)")
    # Every text token advances by one; a frame advances by its longer side, which is booked on its last token.
    steps = np.where(visual, 0, 1)
    starts, taken = [], 0
    for rows, columns in frames:
        first, last = where[taken], where[taken + rows * columns - 1]
        if last - first + 1 != rows * columns:
            raise InvalidRequest(f"the {rows * columns} visual tokens of a frame are interrupted between prompt "
                                 f"positions {first} and {last}, expected them in one run")
        steps[last] = max(rows, columns)
        starts.append(first)
        taken += rows * columns
    ends = np.cumsum(steps)
    position_ids = np.broadcast_to(ends - steps, (3, visual.size)).astype(np.int32)
    for (rows, columns), first in zip(frames, starts, strict=True):
        span = slice(first, first + rows * columns)
        base = position_ids[0, first]
        position_ids[0, span] = base
        position_ids[1, span] = base + np.repeat(np.arange(rows), columns)
        position_ids[2, span] = base + np.tile(np.arange(columns), rows)
    return position_ids, int(ends[-1]) - visual.size if visual.size else 0


def vision_positions(h: int, w: int, merge: int) -> np.ndarray:
    """Row and column of every patch of an `h x w` frame, for the vision encoder's rotary embedding: int32 [h*w, 2]."""
    rows, columns = np.meshgrid(np.arange(h, dtype=np.int32), np.arange(w, dtype=np.int32), indexing="ij")
    return _merge_order(np.stack([rows, columns], axis=-1), merge)


def interpolation(h: int, w: int, grid_side: int, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """Which learned position embeddings make up each patch's, and with what weights.

    Bilinear interpolation of the `grid_side x grid_side` table to `h x w`, with the corners aligned.

    Returns:
        indices int32 [h*w, 4] into the flattened table, weights float32 [h*w, 4]. The embedding of patch p is
        `sum_k weights[p, k] * table[indices[p, k]]`.
    """
    row_taps, row_weights = _axis_taps(h, grid_side)
    column_taps, column_weights = _axis_taps(w, grid_side)
    indices = row_taps[:, None, :, None] * grid_side + column_taps[None, :, None, :]
    weights = row_weights[:, None, :, None] * column_weights[None, :, None, :]
    return _merge_order(indices.reshape(h, w, 4), merge), _merge_order(weights.reshape(h, w, 4), merge)


def _axis_taps(size: int, grid_side: int) -> tuple[np.ndarray, np.ndarray]:
    """The two neighbours of each of `size` points on an axis of the table: int32 and float32 [size, 2]."""
    # float32 throughout, in the reference's order of operations: the weights then agree to the bit.
    source = np.arange(size, dtype=np.float32) * np.float32(grid_side - 1) / np.float32(max(size - 1, 1))
    floor = np.floor(source)
    offsets = np.arange(2, dtype=np.float32)
    weights = np.float32(1) - np.abs(source[:, None] - floor[:, None] - offsets)
    taps = floor.astype(np.int32)[:, None] + np.arange(2, dtype=np.int32)
    return np.minimum(taps, grid_side - 1), np.maximum(weights, np.float32(0))


def _merge_order(values: np.ndarray, merge: int) -> np.ndarray:
    """[h, w, n] in raster order -> [h*w, n] in merge-block order."""
    h, w, n = values.shape
    blocks = values.reshape(h // merge, merge, w // merge, merge, n)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3, 4)).reshape(h * w, n)
