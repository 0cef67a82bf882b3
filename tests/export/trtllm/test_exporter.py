"""The export as a command: its configuration, its errors, what it repeats, and what it needs of memory."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.synthetic_checkpoint import config_30b_a3b, write_checkpoint
from client.cli import main
from export.build_folder import BuildFolder
from export.trtllm.exporter import export_trtllm
from export.trtllm.options import TrtllmOptions
from export.trtllm.parallel import Parallelism
from qwen3vl.errors import ArtifactError, CheckpointError
from tests.support.checkpoints import make_checkpoint
from tests.support.processor_folder import add_processor_files

MEMORY_LIMIT = 256 * 1024 * 1024
HEADS = {"num_attention_heads": 8}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_processor_files(make_checkpoint(tmp_path_factory.mktemp("checkpoint"), text=HEADS,
                                               dtype=torch.bfloat16))


def export(checkpoint: Path, output: Path, *options: str) -> int:
    return main(["export", str(checkpoint), "-o", str(output), "--format", "trtllm", *options])


def test_config_json_says_what_tensorrt_llm_would_get_wrong(checkpoint: Path, tmp_path: Path) -> None:
    assert export(checkpoint, tmp_path, "--tp", "4", "--pp", "2", "--ep", "2", "--max-length", "777",
                  "--weight-only", "int4", "--dtype", "float16") == 0
    config = json.loads((tmp_path / "trtllm/config.json").read_text())
    assert config["architecture"] == "Qwen3MoeForCausalLM" and config["qwen_type"] == "qwen3_moe"
    assert config["head_size"] == config["rotary_embedding_dim"] == 24 != config["hidden_size"] // 8
    assert config["moe"]["normalization_mode"] == 1 and config["moe"]["top_k"] == 2
    assert config["max_position_embeddings"] == config["seq_length"] == 777
    assert config["position_embedding_type"] == config["rotary_scaling"]["type"] == "mrope"
    assert config["rotary_base"] == 10000.0 and config["norm_epsilon"] == 1e-6 and config["attn_bias"] is False
    assert config["mapping"] == {"world_size": 8, "tp_size": 4, "pp_size": 2, "moe_tp_size": 2, "moe_ep_size": 2}
    assert config["quantization"]["quant_algo"] == "W4A16" and config["dtype"] == "float16"
    assert BuildFolder(tmp_path).manifest["trtllm"]["max_length"] == 777


def test_what_goes_with_the_decoder_is_there(checkpoint: Path, tmp_path: Path) -> None:
    assert export(checkpoint, tmp_path) == 0
    assert (tmp_path / "onnx/vision_encoder.onnx").exists() and not (tmp_path / "onnx/decoder.onnx").exists()
    assert (tmp_path / "processor/tokenizer.json").exists()
    assert BuildFolder(tmp_path).manifest["precision"] == "bf16"
    with safe_open(tmp_path / "trtllm/rank0.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(("shape", "options", "message"), [
    ({}, ["--tp", "3"], "--tp is 3, expected a divisor of num_attention_heads = 8"),
    ({"num_key_value_heads": 4, "num_attention_heads": 12}, ["--tp", "6"], "multiple of num_key_value_heads = 4"),
    ({}, ["--tp", "8"], "as many query heads as key-value heads"),
    ({"num_key_value_heads": 8}, [], "as many query heads as key-value heads"),
    ({"num_experts": 6}, ["--tp", "4", "--ep", "4"], "--ep is 4, expected a divisor of num_experts = 6"),
    ({"moe_intermediate_size": 42}, ["--tp", "4"], "expected a divisor of moe_intermediate_size = 42"),
    ({}, ["--tp", "2", "--ep", "4"], "--ep is 4, expected a divisor of --tp = 2"),
    ({}, ["--tp", "0"], "--tp is 0, expected a number above 0"),
    ({}, ["--pp", "3"], "after layers 0 to 2"),
    ({}, ["--pp", "6"], "at most num_hidden_layers = 5"),
    ({"mlp_only_layers": [1]}, [], "layers without experts"),
    ({"decoder_sparse_step": 2}, [], "layers without experts"),
    ({"attention_bias": True}, [], "attention_bias is True"),
    ({}, ["--max-length", "5000"], "--max-length is 5000, expected at most max_position_embeddings = 4096"),
    ({}, ["--max-length", "0"], "--max-length is 0"),
    ({}, ["--precision", "fp16"], "--format trtllm has no such option"),
])
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture,
                                                                 shape: dict, options: list, message: str) -> None:
    folder = add_processor_files(make_checkpoint(tmp_path / "checkpoint", text={**HEADS, **shape}))
    assert export(folder, tmp_path / "build", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


def test_options_of_the_format_are_refused_for_onnx(checkpoint: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture) -> None:
    assert main(["export", str(checkpoint), "-o", str(tmp_path), "--tp", "2"]) == 1
    assert "--tp is 2, but --format onnx has no such option" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["self_attn.k_proj.weight", "mlp.experts.down_proj", "mlp.gate.weight"])
def test_a_tensor_of_the_wrong_shape_is_named_before_anything_is_written(checkpoint: Path, tmp_path: Path,
                                                                         name: str) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    weights = load_file(folder / "model.safetensors")
    full = f"model.language_model.layers.2.{name}"
    weights[full] = weights[full][..., 1:].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=full):
        export_trtllm(folder, tmp_path / "build", TrtllmOptions(Parallelism(tp=2)))
    assert not (tmp_path / "build/trtllm").exists()


def test_values_beyond_float16_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    weights = load_file(folder / "model.safetensors")
    weights["model.language_model.layers.1.mlp.experts.down_proj"][3, 5, 7] = 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.proj\.weight .* float16"):
        export_trtllm(folder, tmp_path / "build", TrtllmOptions(dtype="float16"))
    export_trtllm(folder, tmp_path / "build", TrtllmOptions(dtype="bfloat16"))


def test_only_what_changed_is_written_again(checkpoint: Path, tmp_path: Path) -> None:
    export_trtllm(checkpoint, tmp_path, TrtllmOptions(Parallelism(tp=2)))
    ranks = [tmp_path / f"trtllm/rank{number}.safetensors" for number in range(2)]
    before = [path.stat().st_mtime_ns for path in ranks]
    export_trtllm(checkpoint, tmp_path, TrtllmOptions(Parallelism(tp=2), max_length=99, weight_only="int8"))
    assert [path.stat().st_mtime_ns for path in ranks] == before
    config = json.loads((tmp_path / "trtllm/config.json").read_text())
    assert (config["max_position_embeddings"], config["quantization"]["quant_algo"]) == (99, "W8A16")
    ranks[1].write_bytes(b"spoiled")
    export_trtllm(checkpoint, tmp_path, TrtllmOptions(Parallelism(tp=2), max_length=99, weight_only="int8"))
    assert ranks[0].stat().st_mtime_ns == before[0] and load_file(ranks[1])


def test_fewer_gpus_leave_no_file_of_more(checkpoint: Path, tmp_path: Path) -> None:
    export_trtllm(checkpoint, tmp_path, TrtllmOptions(Parallelism(tp=2, pp=2)))
    export_trtllm(checkpoint, tmp_path, TrtllmOptions())
    assert sorted(path.name for path in (tmp_path / "trtllm").iterdir()) == ["config.json", "rank0.safetensors"]
    with pytest.raises(ArtifactError):
        BuildFolder(tmp_path).identity_of("trtllm/rank3.safetensors")


def test_a_checkpoint_larger_than_memory_exports_and_a_killed_export_goes_on(tmp_path: Path) -> None:
    config = config_30b_a3b(layers=2, vision_depth=2)
    config.text_config.update({"num_experts": 48, "vocab_size": 32768})
    config.update({"image_token_id": 1, "video_token_id": 2, "vision_start_token_id": 3, "vision_end_token_id": 4})
    config.vision_config.deepstack_visual_indexes = [0]
    size = write_checkpoint(tmp_path / "checkpoint", config)
    for file in add_processor_files(tmp_path / "processor_files").iterdir():
        shutil.copy(file, tmp_path / "checkpoint")
    # A single layer's experts exceed the memory that is allowed.
    layer = 48 * 3 * 768 * 2048 * 2
    assert size > 4 * MEMORY_LIMIT and layer > MEMORY_LIMIT

    def start() -> subprocess.Popen:  # private memory is limited; the checkpoint is only mapped
        return subprocess.Popen(
            [sys.executable, "-m", "client.cli", "export", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "build"),
             "--format", "trtllm", "--tp", "2", "--ep", "2"], stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT)))

    build, entries = tmp_path / "build", lambda: BuildFolder(tmp_path / "build").manifest["artifacts"]
    first = start()
    while not (build / "trtllm/.tmp-rank1.safetensors").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {name: entry["state"] for name, entry in entries().items()}
    assert "trtllm/rank0.safetensors" in done and not (build / "trtllm/rank1.safetensors").exists()
    assert not (build / "trtllm/config.json").exists()  # not whole, and says so

    second = start()
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert {name: entries()[name]["state"] for name in done} == done  # nothing was made twice
    assert not list(build.rglob(".tmp-*"))
    sizes = [(build / f"trtllm/rank{number}.safetensors").stat().st_size for number in range(2)]
    assert sizes[0] == sizes[1] > 2 * MEMORY_LIMIT
    assert (build / "trtllm/config.json").exists()
