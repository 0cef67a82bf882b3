"""The export as a process: resumable after a kill, bounded in memory, and clear about what is wrong."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from bench.synthetic_checkpoint import config_30b_a3b, write_checkpoint
from export.build_folder import BuildFolder, sha256
from export.exporter import export
from export.weight_files import ALIGNMENT
from qwen3vl.errors import CheckpointError
from tests.support.checkpoints import make_checkpoint
from tests.support.processor_folder import add_processor_files

MEMORY_LIMIT = 256 * 1024 * 1024


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than twice as large as `MEMORY_LIMIT`, of zeros that take no disk space."""
    folder = tmp_path_factory.mktemp("large")
    config = config_30b_a3b(layers=2, vision_depth=2)
    # In float32 the embedding alone is more than the limit, and so is what a layer has.
    config.text_config.update({"num_experts": 12, "vocab_size": 33792})
    config.update({"image_token_id": 1, "video_token_id": 2, "vision_start_token_id": 3, "vision_end_token_id": 4})
    config.vision_config.deepstack_visual_indexes = [0]
    assert write_checkpoint(folder, config) > 2 * MEMORY_LIMIT
    processor = add_processor_files(folder.parent / "processor_files")
    for file in processor.iterdir():
        shutil.copy(file, folder)
    return folder


def read_artifacts(build: Path) -> dict:
    return json.loads((build / "manifest.json").read_text())["artifacts"]


def start_export(checkpoint: Path, output: Path, precision: str, **options) -> subprocess.Popen:
    script = "import sys; from pathlib import Path; from export.exporter import export; " \
             "export(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])"
    return subprocess.Popen([sys.executable, "-c", script, str(checkpoint), str(output), precision],
                            stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_checkpoint_larger_than_memory_exports_and_a_killed_export_goes_on(large_checkpoint: Path, tmp_path: Path,
                                                                             precision: str):
    def limit() -> None:  # private memory; the checkpoint is only mapped
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))

    output = tmp_path / "build"
    first = start_export(large_checkpoint, output, precision, preexec_fn=limit)
    while not (output / "onnx/decoder.weights/layer-000.bin").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (output / "onnx/decoder.onnx").exists()
    done = {name: entry["state"] for name, entry in read_artifacts(output).items()}
    assert "onnx/vision_encoder.onnx" in done and "onnx/decoder.weights/head.bin" not in done

    second = start_export(large_checkpoint, output, precision, preexec_fn=limit)
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    artifacts = read_artifacts(output)
    assert {name: artifacts[name]["state"] for name in done} == done  # nothing was made twice
    assert not list(output.rglob(".tmp-*"))
    for name, entry in artifacts.items():
        assert sha256(output / name) == entry["sha256"]
    model = onnx.load(output / "onnx/decoder.onnx", load_external_data=False)
    files = {entry.value for tensor in model.graph.initializer for entry in tensor.external_data
             if entry.key == "location"}
    assert files == {f"decoder.weights/{name}.bin" for name in ("embedding", "layer-000", "layer-001", "head")}


def test_exporting_again_touches_nothing(random_build: Path, random_checkpoint: Path):
    before = {path: path.stat().st_mtime_ns for path in random_build.rglob("*.bin")}
    export(random_checkpoint, random_build)
    assert {path: path.stat().st_mtime_ns for path in random_build.rglob("*.bin")} == before


def test_graphs_are_valid_and_aligned(random_build: Path):
    for name in ("vision_encoder", "decoder"):
        path = random_build / f"onnx/{name}.onnx"
        onnx.checker.check_model(path)
        for value in ir.load(path).graph.initializers.values():
            tensor = value.const_value
            assert not isinstance(tensor, ir.ExternalTensor) or tensor.offset % ALIGNMENT == 0
        onnxruntime.InferenceSession(path)  # the portable graph itself loads, functions included
    functions = [(f.domain, f.name) for f in onnx.load(random_build / "onnx/decoder.onnx").functions]
    assert functions == [("qwen3vl", "DeepstackAdd")]


def test_the_manifest_says_what_was_made_from_what(random_build: Path, random_checkpoint: Path):
    manifest = BuildFolder(random_build).manifest
    assert manifest["source"]["path"] == str(random_checkpoint)
    assert manifest["precision"] == "fp32" and manifest["config"]["text"]["num_experts"] == 8
    assert manifest["versions"]["onnx-ir"]
    assert {"processor", "onnx/vision_encoder.onnx", "onnx/decoder.onnx"} <= set(manifest["artifacts"])


def test_a_changed_weight_is_exported_again(tmp_path: Path):
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint"))
    export(checkpoint, tmp_path / "build")
    before = BuildFolder(tmp_path / "build").identity_of("onnx/decoder.weights/layer-001.bin")
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.language_model.layers.1.mlp.gate.weight"] *= 2
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    export(checkpoint, tmp_path / "build")
    assert BuildFolder(tmp_path / "build").identity_of("onnx/decoder.weights/layer-001.bin") != before


@pytest.mark.parametrize("spoil", ["missing", "misshapen"])
def test_a_tensor_that_does_not_fit_is_named_before_anything_is_written(tmp_path: Path, spoil: str):
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint"))
    name = "model.language_model.layers.2.self_attn.o_proj.weight"
    weights = load_file(checkpoint / "model.safetensors")
    weights[name] = weights[name][:, 1:].copy()
    if spoil == "missing":
        del weights[name]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name):
        export(checkpoint, tmp_path / "build")
    assert not list((tmp_path / "build").rglob("*.onnx"))
