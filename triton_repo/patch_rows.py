"""Patches on their way from preprocess to vision_encoder.

A tensor is copied four times on its way between two of Triton's Python models. All frames of an image's patch are
equal: one of them goes, and vision_encoder repeats it. A row is one frame of a patch, or as many bytes of a video's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwen3vl.config import VisionConfig
from qwen3vl.errors import InvalidRequest
from qwen3vl.patches import repeat_frame


def row_bytes(vision: VisionConfig) -> int:
    return vision.patch_dim // vision.temporal_patch_size


def rows_of_patches(parts: Sequence[np.ndarray], vision: VisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pack the patches of each file.

    Args:
        parts: uint8 [t*h*w, patch_dim] or, of an image whose frames are not repeated, [h*w, row_bytes].

    Returns:
        uint8 [R, row_bytes], one file after the other, and int32 [n], the rows of each of a file's patches.
    """
    size = row_bytes(vision)
    rows = [part.reshape(-1, size) for part in parts]
    return (rows[0] if len(rows) == 1 else np.concatenate([np.empty((0, size), np.uint8), *rows]),
            np.array([part.shape[1] // size for part in parts], np.int32))


def patches_of_rows(rows: np.ndarray, rows_per_patch: np.ndarray, grids: np.ndarray,
                    vision: VisionConfig) -> np.ndarray:
    """Unpack what `rows_of_patches` packed: uint8 [P, patch_dim].

    Args:
        grids: int32 [n, 3], (t, h, w) in patches of each file.

    Raises:
        InvalidRequest: they do not fit each other or the model.
    """
    time, counts = vision.temporal_patch_size, np.prod(grids, axis=-1, dtype=np.int64)
    if counts.shape != rows_per_patch.shape or not np.isin(rows_per_patch, (1, time)).all():
        raise InvalidRequest(f"rows_per_patch is {rows_per_patch.tolist()}, expected 1 or {time} for each of the grids "
                             f"{grids.tolist()}")
    expected = [int((counts * rows_per_patch).sum()), row_bytes(vision)]
    if rows.dtype != np.uint8 or list(rows.shape) != expected:
        raise InvalidRequest(f"patches are {rows.dtype} {list(rows.shape)}, expected uint8 {expected} for the grids "
                             f"{grids.tolist()}, {rows_per_patch.tolist()} rows a patch")
    if (rows_per_patch == time).all():
        return rows.reshape(-1, vision.patch_dim)
    patches, taken, made = np.empty((int(counts.sum()), vision.patch_dim), np.uint8), 0, 0
    for count, each in zip(counts.tolist(), rows_per_patch.tolist(), strict=True):
        part, target = rows[taken:taken + count * each], patches[made:made + count]
        if each == time:
            target[:] = part.reshape(target.shape)
        else:
            repeat_frame(part, target)
        taken, made = taken + count * each, made + count
    return patches
