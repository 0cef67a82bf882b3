"""A decoder for a GPU in a model repository: what is asked of it before a server starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engines import cuda_driver
from engines.onnxruntime import cuda_memory
from engines.onnxruntime.cuda_record import LIBRARY_FILE, OTHER_BYTES, RECORD_FILE, CudaDecoderRecord
from qwen3vl.errors import ArtifactError
from triton_repo.build_paths import BuildPaths
from triton_repo.compose import compose
from triton_repo.gpu_memory import VISION_BYTES, require_memory
from triton_repo.repo_check import check_repository
from triton_repo.repository import Options
from triton_repo.roles import Role
from triton_repo.server import TritonServer


@pytest.fixture
def build(random_build: Path, tmp_path: Path) -> Path:
    """A build whose decoder says that it is one for a GPU, composed for 3 slots."""
    folder = Path(shutil.copytree(random_build, tmp_path / "build", ignore=shutil.ignore_patterns("onnx")))
    CudaDecoderRecord("fp16", None, weight_bytes=10**9, leading_rows=4).save(folder / "engines/decoder")
    compose(folder, Options(slots=3), {"total_tokens": 2000, "prompt_tokens": 1000})
    return folder


def test_a_missing_kernel_library_is_named(build: Path) -> None:
    assert check_repository(build / "triton_repo") == []
    record = build / "engines/decoder" / RECORD_FILE
    record.write_text(json.dumps({**json.loads(record.read_text()), "kernels": "0" * 64}))
    assert [str(build / "engines/decoder" / LIBRARY_FILE) in str(problem)
            for problem in check_repository(build / "triton_repo")] == [True]


def test_no_server_starts_without_a_gpu_for_it(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ArtifactError, match="no NVIDIA driver"):
        TritonServer(build)
    require_memory(BuildPaths(build), Role.ENCODE)
    (build / "engines/decoder" / RECORD_FILE).unlink()
    require_memory(BuildPaths(build), Role.BOTH)


def test_no_server_starts_with_too_little_memory(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are those of the repository, their length is that of limits.json."""
    text = json.loads((build / "engines/engine.json").read_text())["config"]["text"]
    token = 4 * text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"]
    needed = 10**9 + 3 * 2000 * token + 4 * 3 * text["vocab_size"] + OTHER_BYTES
    vision = VISION_BYTES + sum(file.stat().st_size for file in (build / "engines/vision_encoder").iterdir())

    class SmallGpu:
        free = needed + vision

        def memory(self) -> tuple[int, int]:
            return self.free, 8 * 10**9

    monkeypatch.setattr(cuda_memory, "Gpu", SmallGpu)
    require_memory(BuildPaths(build), Role.BOTH)
    SmallGpu.free -= 1
    with pytest.raises(ArtifactError, match="3 slots of 2000 tokens"):
        require_memory(BuildPaths(build), Role.BOTH)
    compose(build, Options(slots=3), role=Role.LANGUAGE)  # here images are encoded elsewhere
    require_memory(BuildPaths(build), Role.LANGUAGE)
