"""Composing: what it writes, what it skips, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from client.cli import main
from engines.capacity import Capacity
from engines.tensorrt.record import EngineRecord, TensorInfo
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits
from triton_repo.build_paths import BuildPaths
from triton_repo.compose import compose
from triton_repo.config_pbtxt import CONFIG_FILE, read_config
from triton_repo.repo_check import MODELS, check_repository
from triton_repo.repository import Options
from triton_repo.roles import Role


@pytest.fixture
def build(random_build: Path, tmp_path: Path) -> Path:
    """A copy of a build without a model repository."""
    return Path(shutil.copytree(random_build, tmp_path / "build", ignore=shutil.ignore_patterns("onnx", "triton_repo")))


def files(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_repository_has_every_model_with_sizes_of_the_checkpoint(build: Path) -> None:
    compose(build)
    repository = build / "triton_repo"
    assert sorted(folder.name for folder in repository.iterdir()) == sorted(MODELS[Role.BOTH])
    assert check_repository(repository) == []
    config = ModelConfig.from_checkpoint(build / "processor")
    outputs = read_config(repository / "vision_encoder" / CONFIG_FILE).output
    assert {tensor.name: list(tensor.dims) for tensor in outputs}["visual_rows"] == [-1, config.text.hidden_size]
    assert not list(build.glob(".tmp-*"))


def test_second_run_changes_nothing(build: Path, capsys: pytest.CaptureFixture) -> None:
    compose(build)
    before = files(build / "triton_repo")
    capsys.readouterr()
    compose(build)
    assert files(build / "triton_repo") == before
    assert "is up to date" in capsys.readouterr().err


def test_other_options_replace_the_repository(build: Path) -> None:
    compose(build)
    stale = build / "triton_repo" / "old_model"
    stale.mkdir()
    compose(build, Options(slots=3, threads=2, stall_ms=80, preprocess_instances=5))
    repository = build / "triton_repo"
    assert not stale.exists()
    parameters = read_config(repository / "decoder" / CONFIG_FILE).parameters
    assert {name: value.string_value for name, value in parameters.items()} == {"slots": "3", "threads": "2",
                                                                                "stall_ms": "80", "cache_percent": "80"}
    assert read_config(repository / "preprocess" / CONFIG_FILE).instance_group[0].count == 5


def test_damaged_repository_is_made_again(build: Path) -> None:
    compose(build)
    (build / "triton_repo/decoder/config.pbtxt").write_text("name: 'broken'")
    compose(build)
    assert check_repository(build / "triton_repo") == []


def test_serving_leaves_the_repository_up_to_date(build: Path) -> None:
    compose(build)
    before = files(build / "triton_repo")
    # What Python writes when Triton loads a model.
    cache = build / "triton_repo/decoder/1/__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"")
    compose(build)
    assert {name: time for name, time in files(build / "triton_repo").items() if "__pycache__" not in name} == before


def test_limits_are_written_once_and_changed_one_by_one(build: Path) -> None:
    compose(build, limits={"images": 3})
    compose(build, limits={"queue": 7})
    limits = BuildPaths(build).limits()
    assert (limits.images, limits.queue, limits.image_bytes) == (3, 7, Limits().image_bytes)


def test_as_many_requests_may_wait_to_be_prepared_as_the_decoder_takes_and_queues(build: Path) -> None:
    compose(build, Options(slots=3), {"queue": 7})
    waiting = {name: read_config(build / "triton_repo" / name / CONFIG_FILE).dynamic_batching.default_queue_policy
               for name in ("preprocess", "qwen3_vl_moe_whole", "decoder")}
    assert [policy.max_queue_size for policy in waiting.values()] == [10, 10, 0]


def test_limits_edited_by_hand_are_kept(build: Path) -> None:
    compose(build)
    values = json.loads((build / "limits.json").read_text())
    (build / "limits.json").write_text(json.dumps({**values, "videos": 1}))
    compose(build)
    assert BuildPaths(build).limits().videos == 1


def test_default_lengths_are_those_of_the_model(build: Path) -> None:
    limits = Capacity.of(build / "engines").default_limits()
    assert limits.total_tokens == 4096
    assert 0 < limits.prompt_tokens < limits.total_tokens


@pytest.mark.parametrize("limits,message", [
    ({"total_tokens": 5000}, "total_tokens is 5000, expected at most 4096"),
    ({"pictures": 1}, "unknown limit pictures"),
    ({"images": 0}, "limit images is 0"),
])
def test_wrong_limit_is_refused(build: Path, limits: dict, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        compose(build, limits=limits)


@pytest.mark.parametrize("options", [{"slots": 0}, {"threads": -1}, {"stall_ms": 0}, {"whole_instances": 0}])
def test_wrong_option_is_refused(options: dict) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ArtifactError, match=f"{name} is {value}, expected at least"):
        Options(**options)


def test_missing_engine_is_named(build: Path) -> None:
    (build / "engines/decoder/engine.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"engines/decoder/engine\.onnx does not exist"):
        compose(build)


def test_engine_of_another_model_is_named(build: Path) -> None:
    path = build / "engines/vision_encoder/engine.onnx"
    model = onnx.load(path, load_external_data=False)
    rows = next(value for value in model.graph.output if value.name == "visual_rows")
    rows.type.tensor_type.shape.dim[-1].dim_value = 65
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match="tensor visual_rows has 65 as its last dimension, expected 64"):
        compose(build)


def test_kill_leaves_the_old_repository_or_the_new_one(build: Path) -> None:
    compose(build, Options(slots=1))
    command = [sys.executable, "-m", "client.cli", "compose", str(build), "--slots"]
    for i, delay in enumerate((0.3, 0.35, 0.4, 0.45, 0.5, 0.6)):
        process = subprocess.Popen([*command, str(i + 2)], stderr=subprocess.DEVNULL)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (build / "triton_repo").exists():
            assert check_repository(build / "triton_repo") == []
    compose(build, Options(slots=1))
    assert check_repository(build / "triton_repo") == []
    assert not list(build.glob(".tmp-*"))


def test_moved_build_is_sound(build: Path, tmp_path: Path) -> None:
    compose(build)
    moved = build.rename(tmp_path / "elsewhere")
    assert check_repository(moved / "triton_repo") == []


def test_command_line(build: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compose", str(build), "--slots", "2", "--limit", "images=1", "--limit", "videos=2"]) == 0
    limits = BuildPaths(build).limits()
    assert (limits.images, limits.videos) == (1, 2)
    assert main(["repo", "check", str(build)]) == 0
    assert "no problems" in capsys.readouterr().out
    (build / "limits.json").unlink()
    assert main(["repo", "check", str(build / "triton_repo")]) == 1
    assert "limits.json does not exist" in capsys.readouterr().err
    assert main(["compose", str(build / "nowhere")]) == 1
    assert "error: " in capsys.readouterr().err


def test_tensorrt_engine_is_checked_by_its_record(build: Path) -> None:
    config = ModelConfig.from_checkpoint(build / "processor")
    folder = build / "engines/vision_encoder"
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "engine.plan").write_bytes(b"")

    def record(hidden: int) -> None:
        EngineRecord("tensorrt", "10.13", "fp16", ("8.9",), (), (),
                     {"patches": TensorInfo("uint8", (-1, -1, config.vision.patch_dim))},
                     {"visual_rows": TensorInfo("float32", (-1, hidden))}).save(folder)

    record(config.text.hidden_size)
    compose(build)
    assert check_repository(build / "triton_repo") == []
    (folder / "engine.plan").unlink()
    found, = check_repository(build / "triton_repo")
    assert "engine.plan: the engine is missing" in str(found)
    record(65)
    with pytest.raises(ArtifactError, match="tensor visual_rows has 65"):
        compose(build)
