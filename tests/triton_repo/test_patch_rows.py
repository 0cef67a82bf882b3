"""Patches on their way between two models are those that were sent, whatever files they are of."""

import numpy as np
import pytest

from qwen3vl.config import VisionConfig
from qwen3vl.errors import InvalidRequest
from qwen3vl.patches import repeat_frame
from triton_repo.patch_rows import patches_of_rows, row_bytes, rows_of_patches


@pytest.fixture(params=[(16, 2), (14, 3), (15, 1)], ids=str)
def vision(request) -> VisionConfig:
    side, time = request.param
    return VisionConfig(depth=1, hidden_size=32, num_heads=2, intermediate_size=64, out_hidden_size=32, patch_size=side,
                        temporal_patch_size=time, spatial_merge_size=2, num_position_embeddings=16,
                        deepstack_visual_indexes=(0,))


def made(vision: VisionConfig, kinds: str):
    """Patches of images ("i") and videos ("v") as they are packed and as they are meant, and their grids."""
    random, packed, whole = np.random.default_rng(0), [], []
    grids = np.array([(1 if kind == "i" else 2, 2, 4 + i) for i, kind in enumerate(kinds)], np.int32).reshape(-1, 3)
    for kind, grid in zip(kinds, grids, strict=True):
        frames = 1 if kind == "i" else vision.temporal_patch_size
        pixels = random.integers(0, 256, (np.prod(grid), 3, frames, vision.patch_size**2), dtype=np.uint8)
        packed.append(pixels.reshape(len(pixels), -1))
        repeats = vision.temporal_patch_size // frames
        whole.append(np.repeat(pixels, repeats, axis=2).reshape(len(pixels), -1))
    return packed, np.concatenate([np.empty((0, vision.patch_dim), np.uint8), *whole]), grids


@pytest.mark.parametrize("kinds", ["", "i", "v", "ii", "iv", "vi", "viviv"])
def test_what_is_packed_comes_out(vision: VisionConfig, kinds: str):
    packed, whole, grids = made(vision, kinds)
    rows, rows_per_patch = rows_of_patches(packed, vision)
    assert rows.shape[1] == row_bytes(vision) and len(rows_per_patch) == len(kinds)
    np.testing.assert_array_equal(patches_of_rows(rows, rows_per_patch, grids, vision), whole)


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_repeating_by_threads_gives_the_same(cores: int, monkeypatch):
    monkeypatch.setattr("qwen3vl.patches.STRIP_PIXELS", 64)
    monkeypatch.setattr("qwen3vl.patches.os.cpu_count", lambda: cores)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 3 * 64), dtype=np.uint8)
    patches = np.zeros((37, 3 * 4 * 64), np.uint8)
    repeat_frame(pixels, patches)
    expected = np.repeat(pixels.reshape(37, 3, 1, 64), 4, axis=2).reshape(37, -1)
    np.testing.assert_array_equal(patches, expected)


def test_what_does_not_fit_is_refused(vision: VisionConfig):
    packed, _, grids = made(vision, "iv")
    rows, rows_per_patch = rows_of_patches(packed, vision)
    for wrong, message in (((rows[:-1], rows_per_patch, grids), "patches are uint8"),
                           ((rows, rows_per_patch[:1], grids), "rows_per_patch is"),
                           ((rows, rows_per_patch + 7, grids), "rows_per_patch is"),
                           ((rows.astype(np.int8), rows_per_patch, grids), "patches are int8")):
        with pytest.raises(InvalidRequest, match=message):
            patches_of_rows(*wrong, vision)
