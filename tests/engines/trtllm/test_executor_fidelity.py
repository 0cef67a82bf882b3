"""The fidelity check of a build for TensorRT-LLM, on a stand-in for its executor."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from engines.fidelity import expected as fidelity
from engines.fidelity.check import check
from qwen3vl.errors import ArtifactError
from qwen3vl.torch_model import TorchModel
from tests.engines.trtllm.executor_standin.deployment import install, make_build

SIZES = {"prompt_tokens": 300, "total_tokens": 400, "visual_tokens": 128, "num_tokens": 300}


def make(folder: Path, random_build: Path, checkpoint: Path, **options) -> Path:
    return make_build(folder, random_build, checkpoint, **{**SIZES, "context_logits": True, **options})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("expected")


def levels(report: dict, passed: bool) -> set[str]:
    return {result["level"] for result in report["results"] if result["passed"] is passed}


def test_a_right_engine_agrees_level_by_level(random_build, random_checkpoint, expected, tmp_path, monkeypatch) -> None:
    executors = install(monkeypatch)
    report = check(make(tmp_path / "build", random_build, random_checkpoint), random_checkpoint, "bf16", expected)
    assert report["passed"], levels(report, False)
    assert levels(report, True) == {
        "visual rows, embedding", *(f"visual rows, DeepStack level {level}" for level in (1, 2, 3)), "prefill logits",
        "prefill logits in chunks of 64", "canary: logits differ without DeepStack", "greedy text, 64 tokens"}
    assert [executor.config.max_num_tokens for executor in executors] == [None, 64]
    assert not any(executor.can_enqueue_requests() for executor in executors)
    # What was expected is kept: the second time there is no reference to be run.
    monkeypatch.setattr(fidelity, "expectations", None)
    again = check(tmp_path / "build", random_checkpoint, "bf16", expected)
    assert again["results"] == report["results"]


def test_an_engine_that_ignores_deepstack_fails(random_build, random_checkpoint, expected, tmp_path,
                                                monkeypatch) -> None:
    executors = install(monkeypatch)
    build = make(tmp_path / "build", random_build, random_checkpoint)
    monkeypatch.setattr(TorchModel, "from_checkpoint", without_deepstack(TorchModel.from_checkpoint))
    report = check(build, random_checkpoint, "bf16", expected)
    assert {"canary: logits differ without DeepStack", "prefill logits"} <= levels(report, False)
    assert "canary: logits differ without DeepStack" not in levels(report, True)
    assert len(executors) == 2


def without_deepstack(load):
    def from_checkpoint(folder: Path):
        loaded = load(folder)
        loaded.decoder.deepstack_levels = 0
        return loaded

    return from_checkpoint


def test_other_weights_fail(random_build, random_checkpoint, expected, tmp_path, monkeypatch) -> None:
    install(monkeypatch)
    build = make(tmp_path / "build", random_build, random_checkpoint)
    other = tmp_path / "checkpoint"
    other.mkdir()
    for file in random_checkpoint.iterdir():
        if file.suffix == ".safetensors":
            weights = load_file(file)
            name = next(name for name in weights if name.endswith("layers.2.self_attn.o_proj.weight"))
            weights[name] = -weights[name]
            save_file(weights, other / file.name, metadata={"format": "pt"})
        else:
            (other / file.name).write_bytes(file.read_bytes())
    engine = build / "engines/trtllm/rank0.engine"
    engine.write_text(engine.read_text().replace(str(random_checkpoint), str(other)))
    report = check(build, random_checkpoint, "bf16", expected)
    assert {"prefill logits", "prefill logits in chunks of 64"} <= levels(report, False)
    assert levels(report, False) & {"visual rows, embedding"} == set()


def test_an_engine_without_logits_of_the_prompt_says_how_to_build_one(random_build, random_checkpoint, expected,
                                                                     tmp_path, monkeypatch) -> None:
    install(monkeypatch)
    build = make(tmp_path / "build", random_build, random_checkpoint, context_logits=False)
    with pytest.raises(ArtifactError, match="--context-logits"):
        check(build, random_checkpoint, "bf16", expected)
