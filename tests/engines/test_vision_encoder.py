"""Frames of several requests in shared calls, lazy loading, and clear refusals."""

from pathlib import Path

import numpy as np
import pytest

from engines.onnxruntime.vision_encoder import VisionEncoder
from qwen3vl.errors import ArtifactError, InvalidRequest
from tests.engines.support import make_inputs


@pytest.fixture
def encoder(random_build: Path) -> VisionEncoder:
    return VisionEncoder(random_build / "engines")


def test_requests_together_give_the_rows_of_each_alone(encoder: VisionEncoder, random_build: Path):
    inputs = list(make_inputs(random_build).values())
    requests = [(i.patches, i.grids) for i in [*inputs, *reversed(inputs)]]
    together = encoder.encode_batch(requests)
    for request, rows in zip(requests, together, strict=True):
        tokens = int(np.prod(request[1], axis=1).sum()) // 4
        assert rows.shape == (tokens * encoder.config.rows_per_token, encoder.config.text.hidden_size)
        np.testing.assert_allclose(rows, encoder.encode(*request), rtol=1e-5, atol=1e-5)


def test_frames_do_not_see_each_other(encoder: VisionEncoder):
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (2 * 16, encoder.config.vision.patch_dim), dtype=np.uint8)
    grid = np.array([[2, 4, 4]], np.int32)
    before = encoder.encode(patches, grid)
    patches[16:] = 255 - patches[16:]
    after = encoder.encode(patches, grid)
    half = len(before) // 2
    np.testing.assert_array_equal(before[:half], after[:half])
    assert np.abs(before[half:] - after[half:]).max() > 0.01


def test_an_image_alone_comes_to_the_engine_without_a_copy(encoder: VisionEncoder, monkeypatch):
    encode, seen = encoder.encode_frames, []
    monkeypatch.setattr(encoder, "encode_frames", lambda grid, frames: seen.append(frames) or encode(grid, frames))
    patches = np.zeros((16, encoder.config.vision.patch_dim), np.uint8)
    encoder.encode(patches, np.array([[1, 4, 4]]))
    assert seen[0].shape == (1, *patches.shape) and np.shares_memory(seen[0], patches)


def test_the_engine_is_loaded_with_the_first_image(encoder: VisionEncoder):
    none = np.empty((0, encoder.config.vision.patch_dim), np.uint8), np.empty((0, 3), np.int32)
    assert encoder.encode(*none).shape == (0, encoder.config.text.hidden_size)
    assert not encoder.loaded
    encoder.encode(np.zeros((4, encoder.config.vision.patch_dim), np.uint8), np.array([[1, 2, 2]]))
    assert encoder.loaded


@pytest.mark.parametrize(("patches", "grids", "message"), [
    (np.zeros((4, 1536), np.float32), [[1, 2, 2]], "float32.*expected uint8"),
    (np.zeros((4, 768), np.uint8), [[1, 2, 2]], r"\[4, 768\].*expected uint8 \[n, 1536\]"),
    (np.zeros((4, 1536), np.uint8), [[1, 2, 4]], "cover 8 patches, but 4 were given"),
    (np.zeros((3, 1536), np.uint8), [[1, 1, 3]], "multiples of 2"),
    (np.zeros((4, 1536), np.uint8), [[0, 2, 2]], "above 0"),
    (np.zeros((4, 1536), np.uint8), [1, 2, 2], "rows of"),
])
def test_what_does_not_fit_is_refused(encoder: VisionEncoder, patches: np.ndarray, grids: list, message: str):
    with pytest.raises(InvalidRequest, match=message):
        encoder.encode(patches, np.array(grids))


def test_a_folder_without_engines_says_what_to_run(tmp_path: Path):
    with pytest.raises(ArtifactError, match="qwen3vl build"):
        VisionEncoder(tmp_path / "engines")
