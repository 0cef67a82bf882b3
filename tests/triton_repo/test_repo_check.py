"""Each rule of the static check, on a repository that breaks it; and that Triton refuses what the check refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonConfig

from qwen3vl.errors import ArtifactError
from triton_repo.config_pbtxt import CONFIG_FILE, read_config, to_text
from triton_repo.ensemble_check import check_ensemble
from triton_repo.repo_check import check_repository, require_sound
from triton_repo.repository import ENSEMBLE

PREPROCESS, VISION, DECODER, POSTPROCESS = range(4)
INT64 = model_config_pb2.TYPE_INT64


@pytest.fixture
def repository(live_build: Path, tmp_path: Path) -> Path:
    """A copy of a sound repository, to be broken; its engines and processor are the original's."""
    for name in ("engines", "processor"):
        shutil.copytree(live_build / name, tmp_path / name)
    shutil.copyfile(live_build / "limits.json", tmp_path / "limits.json")
    return Path(shutil.copytree(live_build / "triton_repo", tmp_path / "triton_repo"))


def change(repository: Path, model: str, edit: Callable[[TritonConfig], object]) -> None:
    path = repository / model / CONFIG_FILE
    config = read_config(path)
    edit(config)
    path.write_text(to_text(config))


def problems(repository: Path) -> list[str]:
    return [str(problem) for problem in check_repository(repository)]


def tensor(tensors, name: str):
    return next(tensor for tensor in tensors if tensor.name == name)


def steps(config: TritonConfig):
    return config.ensemble_scheduling.step


def test_composed_repository_is_sound(repository: Path) -> None:
    assert problems(repository) == []
    require_sound(repository)


def test_all_problems_are_in_one_error(repository: Path) -> None:
    shutil.rmtree(repository / "postprocess")
    (repository.parent / "limits.json").unlink()
    with pytest.raises(ArtifactError) as error:
        require_sound(repository)
    assert "postprocess" in str(error.value)
    assert "limits.json does not exist" in str(error.value)


# What is broken -> model, edit of its configuration, part of the one problem there must be.
BROKEN_CONFIGS = {
    "name": ("decoder", lambda c: setattr(c, "name", "encoder"), "decoder: name: is 'encoder', expected 'decoder'"),
    "backend": ("decoder", lambda c: setattr(c, "backend", "onnxruntime"), "decoder: backend: is 'onnxruntime'"),
    "two instances of the decoder": ("decoder", lambda c: setattr(c.instance_group[0], "count", 2),
                                     "decoder: instance_group.count: is 2, expected 1"),
    "two instances that overtake each other": ("postprocess", lambda c: setattr(c.instance_group[0], "count", 2),
                                               "postprocess: instance_group.count: is 2, expected 1"),
    "a queue without end": ("preprocess", lambda c: c.ClearField("dynamic_batching"),
                            "preprocess: dynamic_batching.default_queue_policy.max_queue_size: is 0, expected 36"),
    "no such size": ("qwen3_vl_moe_whole", lambda c: c.input[0].dims.__setitem__(0, 0),
                     "qwen3_vl_moe_whole: input['messages'].dims: is [0]"),
    "no type": ("qwen3_vl_moe_whole", lambda c: setattr(c.input[0], "data_type", model_config_pb2.TYPE_INVALID),
                "qwen3_vl_moe_whole: input['messages'].data_type: is missing"),
    "no outputs": ("qwen3_vl_moe_whole", lambda c: c.ClearField("output"), "qwen3_vl_moe_whole: output: there is none"),
    "unknown model": (ENSEMBLE, lambda c: setattr(steps(c)[DECODER], "model_name", "decode"),
                      "qwen3_vl_moe: step[2].model_name: there is no model 'decode'"),
    "instances of an ensemble": (ENSEMBLE, lambda c: c.instance_group.add(count=1), ": instance_group: is set"),
    "warm-up of an ensemble": (ENSEMBLE, lambda c: c.model_warmup.add(name="w"), "qwen3_vl_moe: model_warmup: is set"),
    "optimisation of an ensemble": (ENSEMBLE, lambda c: c.optimization.SetInParent(),
                                    "qwen3_vl_moe: optimization: is set"),
    "a required input is not mapped": (ENSEMBLE, lambda c: steps(c)[DECODER].input_map.pop("rope_delta"),
                                       "step[2].input_map: does not map 'rope_delta', a required input of decoder"),
    "an input that is not there": (ENSEMBLE, lambda c: steps(c)[DECODER].input_map.update(rope="encoded_rope_delta"),
                                   "step[2].input_map['rope']: decoder has no input 'rope'"),
    "an output that is not there": (ENSEMBLE, lambda c: steps(c)[DECODER].output_map.update(words="words"),
                                    "step[2].output_map['words']: decoder has no output 'words'"),
    "a tensor that nothing produces": (
        ENSEMBLE, lambda c: steps(c)[POSTPROCESS].input_map.update(probe="emitted_prob"),
        "step[3].input_map['probe']: nothing produces 'emitted_prob'"),
    "a tensor that is produced twice": (
        ENSEMBLE, lambda c: steps(c)[POSTPROCESS].output_map.update(usage="emitted_token_ids"),
        "step[3].output_map['usage']: produces 'emitted_token_ids' again, after step[2] (decoder)"),
    "an ensemble input that is produced": (
        ENSEMBLE, lambda c: steps(c)[POSTPROCESS].output_map.update(usage="prompt"),
        "step[3].output_map['usage']: produces 'prompt' again, after input prompt"),
    "an output without a source": (ENSEMBLE, lambda c: c.output.add(name="tokens", data_type=INT64, dims=[-1]),
                                   "output['tokens']: no step produces it"),
    "a tensor that nothing uses": (ENSEMBLE, lambda c: steps(c)[POSTPROCESS].input_map.pop("probe"),
                                   "tensor 'emitted_probe': step[2] (decoder) provides it, but nothing uses it"),
    "an input that nothing uses": (
        ENSEMBLE, lambda c: c.input.add(name="voice", data_type=INT64, dims=[1], optional=True),
        "tensor 'voice': input voice provides it, but nothing uses it"),
    "types that differ": (
        "postprocess", lambda c: setattr(tensor(c.input, "token_ids"), "data_type", INT64),
        "step[3].input_map['token_ids']: step[2] (decoder) gives INT32, but postprocess's input token_ids is INT64"),
    "sizes that differ": (
        "postprocess", lambda c: tensor(c.input, "token_counts").dims.__setitem__(0, 3),
        "step[3].input_map['token_counts']: step[2] (decoder) has the shape [2], but postprocess's input token_counts "
        "has [3]"),
    "ranks that differ": ("postprocess", lambda c: tensor(c.input, "token_ids").dims.append(1),
                          "step[3].input_map['token_ids']: step[2] (decoder) has the shape [-1], but"),
    "output of another type": (ENSEMBLE, lambda c: setattr(tensor(c.output, "text"), "data_type", INT64),
                               "output['text']: step[3] (postprocess) gives STRING, but the ensemble's output is "),
    "an optional input that is required inside": (
        "preprocess", lambda c: setattr(tensor(c.input, "videos"), "optional", False),
        "step[0].input_map['videos']: input videos is optional, but preprocess requires 'videos'"),
    "batches inside": ("postprocess", lambda c: setattr(c, "max_batch_size", 8),
                       "step[3].model_name: postprocess has max_batch_size 8, expected 0"),
    "rows of another size than the engines'": (
        "vision_encoder", lambda c: tensor(c.output, "visual_rows").dims.__setitem__(1, -1),
        "vision_encoder: output['visual_rows']: is FP32 [-1, -1], but the engines take and give FP32 [-1, 64]"),
}


@pytest.mark.parametrize("model,edit,expected", BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS)
def test_broken_configuration_is_named(repository: Path, model: str, edit: Callable, expected: str) -> None:
    change(repository, model, edit)
    found = problems(repository)
    assert len([problem for problem in found if expected in problem]) == 1, found


@pytest.mark.parametrize("file", [
    "triton_repo/decoder/config.pbtxt", "triton_repo/decoder/1/model.py", "limits.json", "engines/engine.json",
    "engines/decoder/engine.onnx", "engines/vision_encoder/engine.onnx", "processor/tokenizer.json",
    "processor/preprocessor_config.json"])
def test_missing_file_is_named(repository: Path, file: str) -> None:
    (repository.parent / file).unlink()
    assert any(str(repository.parent / file) in problem for problem in problems(repository))


@pytest.mark.parametrize("folder", ["decoder", "decoder/1", ENSEMBLE])
def test_missing_folder_is_named(repository: Path, folder: str) -> None:
    shutil.rmtree(repository / folder)
    assert any(str(repository / folder) in problem for problem in problems(repository))


def test_missing_repository_is_named(tmp_path: Path) -> None:
    found, = problems(tmp_path / "triton_repo")
    assert "there is no such folder" in found


def test_broken_text_is_named_with_its_line(repository: Path) -> None:
    with open(repository / "decoder" / CONFIG_FILE, "a") as config:
        config.write("\nmax_batch: 3\n")
    assert any("decoder: config.pbtxt: " in problem and "max_batch" in problem for problem in problems(repository))


def test_unknown_limit_is_named(repository: Path) -> None:
    (repository.parent / "limits.json").write_text(json.dumps({"picture_bytes": 3}))
    found, = problems(repository)
    assert "limits.json: unknown limit picture_bytes" in found


def ensemble_problems(repository: Path, edit: Callable[[TritonConfig], object],
                      coupled: tuple[str, ...] = ()) -> list[str]:
    configs = {folder.name: read_config(folder / CONFIG_FILE) for folder in repository.iterdir()}
    ensemble = configs.pop(ENSEMBLE)
    edit(ensemble)
    for name in coupled:
        configs[name].model_transaction_policy.decoupled = False
    return [str(problem) for problem in check_ensemble(ensemble, configs)]


def take_from_preprocess(ensemble: TritonConfig) -> None:
    steps(ensemble)[DECODER].input_map["rope_delta"] = "preprocessed_rope_delta"
    del steps(ensemble)[VISION].output_map["rope_delta"]


def test_inputs_from_before_and_behind_a_decoupled_step_are_refused(repository: Path) -> None:
    found, = ensemble_problems(repository, take_from_preprocess)
    assert found.startswith("qwen3_vl_moe: step[2].input_map: decoder takes tensors that come through no decoupled "
                            "model and step[1] (vision_encoder)")


def test_inputs_from_before_and_behind_an_ordinary_step_are_accepted(repository: Path) -> None:
    assert ensemble_problems(repository, take_from_preprocess, coupled=("vision_encoder",)) == []


def test_outputs_from_different_decoupled_steps_are_refused(repository: Path) -> None:
    def edit(ensemble: TritonConfig) -> None:
        steps(ensemble)[DECODER].output_map["finish_reason"] = "finish_reason"
        steps(ensemble)[POSTPROCESS].input_map["finish_reason"] = "finish_reason"
        del steps(ensemble)[POSTPROCESS].output_map["finish_reason"]

    found, = ensemble_problems(repository, edit)
    assert "output: the ensemble's response takes tensors that come through step[2] (decoder) and step[3]" in found


def test_steps_in_any_order_are_accepted(repository: Path) -> None:
    def edit(ensemble: TritonConfig) -> None:
        reverse = list(reversed(steps(ensemble)))
        del steps(ensemble)[:]
        steps(ensemble).extend(reverse)

    assert ensemble_problems(repository, edit) == []


def test_circle_of_steps_is_refused(repository: Path) -> None:
    def edit(ensemble: TritonConfig) -> None:
        steps(ensemble)[VISION].input_map["token_ids"] = "emitted_token_ids"

    assert any("wait for each other in a circle" in problem for problem in ensemble_problems(repository, edit))


def test_ensemble_without_steps_is_refused(repository: Path) -> None:
    found, = ensemble_problems(repository, lambda ensemble: ensemble.ClearField("ensemble_scheduling"))
    assert "there are no steps" in found
