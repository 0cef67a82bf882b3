"""The adapter up to the point where a GPU is needed: what it accepts, how it cuts calls, and what it says else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engines import cuda_driver
from engines.onnxruntime.vision_encoder import VisionEncoder as OnnxRuntimeVisionEncoder
from engines.tensorrt.flavour import load_tensorrt
from engines.tensorrt.messages import message_log
from engines.tensorrt.record import EngineRecord
from engines.tensorrt.runner import EngineRunner, load_engine, require_capability, require_input, require_version
from engines.tensorrt.vision_encoder import VisionEncoder
from engines.vision_encoder import vision_encoder
from qwen3vl.errors import ArtifactError, InvalidRequest


@pytest.fixture
def encoder(rtx_builds: dict[str, Path]) -> VisionEncoder:
    return VisionEncoder(rtx_builds["fp16"] / "engines")


def patches_of(grids: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    count = sum(t * h * w for t, h, w in grids)
    return np.zeros((count, 1536), np.uint8), np.array(grids).reshape(-1, 3)


def test_the_adapter_follows_from_the_engine(rtx_builds: dict[str, Path], random_build: Path):
    assert type(vision_encoder(rtx_builds["bf16"] / "engines")) is VisionEncoder
    assert type(vision_encoder(random_build / "engines")) is OnnxRuntimeVisionEncoder


def test_no_images_need_no_engine(encoder: VisionEncoder):
    assert encoder.encode(*patches_of([])).shape == (0, encoder.config.text.hidden_size)
    assert not encoder.loaded


def test_calls_are_cut_by_the_profiles(encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def count_frames(grid: tuple[int, int], patches: np.ndarray) -> np.ndarray:
        calls.append((grid, patches.shape))
        inputs, profile = encoder._call(grid, patches)
        assert profile == 0 and set(inputs) == set(encoder.record.inputs)
        rows = encoder.config.rows_per_token * patches.shape[0] * patches.shape[1] // 4
        return np.zeros((rows, encoder.config.text.hidden_size), np.float32)

    monkeypatch.setattr(encoder, "encode_frames", count_frames)
    rows = encoder.encode_batch([patches_of([(10, 4, 4), (1, 16, 16)]), patches_of([(9, 4, 4)])])
    assert calls == [((4, 4), (16, 16, 1536)), ((4, 4), (3, 16, 1536)), ((16, 16), (1, 256, 1536))]
    assert [len(part) for part in rows] == [4 * (10 * 4 + 64), 4 * 9 * 4]


def test_an_image_beyond_the_largest_is_refused_by_its_size(encoder: VisionEncoder):
    with pytest.raises(InvalidRequest, match=r"288x256 pixels after preparation \(73728 in all\) is beyond the vision "
                                             r"engine's largest, 65536 pixels.*--max-image-pixels"):
        encoder.validate(*patches_of([(1, 4, 4), (1, 16, 18)]))
    with pytest.raises(InvalidRequest, match="multiples of 2"):
        encoder.validate(np.zeros((3, 1536), np.uint8), np.array([[1, 1, 3]]))


def test_a_call_that_no_profile_takes_is_refused(encoder: VisionEncoder):
    with pytest.raises(ValueError, match="17 frames of 4x4 patches in one call, expected at most 16"):
        encoder.encode_on_gpu((4, 4), np.zeros((17, 16, 1536), np.uint8))
    with pytest.raises(ValueError, match="frames have 15 patches, expected 16, the grid's 4x4"):
        encoder.encode_frames((4, 4), np.zeros((1, 15, 1536), np.uint8))


def test_without_a_driver_it_says_so(encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ArtifactError, match=r"no NVIDIA driver.*--target cpu"):
        encoder.encode(*patches_of([(1, 4, 4)]))
    assert not encoder.loaded


def test_an_engine_of_another_version_is_refused_before_anything_else(rtx_builds: dict[str, Path], tmp_path: Path):
    folder = shutil.copytree(rtx_builds["fp16"] / "engines/vision_encoder", tmp_path / "engine")
    values = json.loads((folder / "tensorrt.json").read_text())
    (folder / "tensorrt.json").write_text(json.dumps({**values, "version": "1.6.0.1"}))
    version = load_tensorrt("tensorrt_rtx").__version__
    with pytest.raises(ArtifactError, match=rf"built by tensorrt_rtx 1.6.0.1, but {version} is installed"):
        EngineRunner(folder)


def test_another_gpu_is_refused(encoder: VisionEncoder):
    require_version(encoder.record, load_tensorrt("tensorrt_rtx").__version__)
    require_capability(encoder.record, "12.0")
    with pytest.raises(ArtifactError, match=r"for compute capability 8.6, 12.0, but this GPU's is 9.0.*"
                                            r"--compute-capability 9.0"):
        require_capability(encoder.record, "9.0")


@pytest.mark.parametrize("content", [b"", b"not an engine", None], ids=["empty", "garbage", "cut off"])
def test_a_broken_engine_is_refused(content: bytes | None, rtx_builds: dict[str, Path], tmp_path: Path):
    folder = rtx_builds["fp16"] / "engines/vision_encoder"
    path = tmp_path / "engine.plan"
    path.write_bytes((folder / "engine.plan").read_bytes()[:5000] if content is None else content)
    trt = load_tensorrt("tensorrt_rtx")
    with pytest.raises(ArtifactError, match=r"tensorrt_rtx 1\.[\d.]+ cannot load .*engine.plan.*qwen3vl build"):
        load_engine(trt, EngineRecord.load(folder), path, message_log(trt, keep=4))


def test_a_missing_engine_or_record_is_named(rtx_builds: dict[str, Path], tmp_path: Path):
    trt = load_tensorrt("tensorrt_rtx")
    record = EngineRecord.load(rtx_builds["fp16"] / "engines/vision_encoder")
    with pytest.raises(ArtifactError, match=r"engine.plan does not exist"):
        load_engine(trt, record, tmp_path / "engine.plan", message_log(trt))
    with pytest.raises(ArtifactError, match=r"tensorrt.json does not exist: run `qwen3vl build --target tensorrt`"):
        EngineRecord.load(tmp_path)
    (tmp_path / "tensorrt.json").write_text('{"format": 0}')
    with pytest.raises(ArtifactError, match="another version of this toolkit"):
        EngineRecord.load(tmp_path)


def test_inputs_are_checked_against_the_engine():
    require_input("patches", "uint8", (-1, -1, 1536), np.dtype(np.uint8), (2, 8, 1536))
    for dtype, shape in ((np.float32, (2, 8, 1536)), (np.uint8, (2, 8, 768)), (np.uint8, (8, 1536))):
        with pytest.raises(ValueError, match=r"patches is .*, expected uint8 \[-1, -1, 1536\]"):
            require_input("patches", "uint8", (-1, -1, 1536), np.dtype(dtype), shape)
