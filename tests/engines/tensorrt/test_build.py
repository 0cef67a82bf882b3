"""Engines that TensorRT for RTX really builds, read through the layer report it gives while building.

Loading an engine, and so the engine inspector, needs a GPU; the report says the same.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.cli import main
from engines.builder import build_engines
from engines.tensorrt.build import TensorRTOptions
from engines.tensorrt.flavour import load_tensorrt, use_polygraphy
from engines.tensorrt.profiles import derive_profiles
from engines.tensorrt.record import EngineRecord
from export.build_folder import BuildFolder
from export.exporter import export
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from tests.engines.tensorrt.conftest import OPTIONS
from tests.support.checkpoints import make_checkpoint
from tests.support.processor_folder import add_processor_files

# What the report calls the element types.
NAMES = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16"}
BUNDLED = Path(__file__).parents[3] / "models/tiny-shapes"
PRECISION = pytest.mark.parametrize("precision", NAMES)


def report_of(build: Path) -> list[str]:
    return (build / "engines/vision_encoder/layers.txt").read_text().splitlines()


def record_of(build: Path) -> EngineRecord:
    return EngineRecord.load(build / "engines/vision_encoder")


def result_types(lines: list[str], pattern: str) -> list[set[str]]:
    """Element types of what the layers whose names match give."""
    found = [line for line in lines if re.match(rf"Name: [^,]*{pattern}", line)]
    return [set(re.findall(r"Datatype: (\w+)", line.split("Outputs:")[1])) for line in found]


@PRECISION
def test_inputs_outputs_and_profiles_are_those_of_the_limits(precision: str, rtx_builds: dict[str, Path],
                                                              random_checkpoint: Path):
    config, build = ModelConfig.from_checkpoint(random_checkpoint), rtx_builds[precision]
    record, tensors = record_of(build), [line for line in report_of(build) if "IOMode" in line]
    assert record.profiles == derive_profiles(config.vision, 256 * 256)
    assert (record.flavour, record.precision, record.compute_capabilities) == ("tensorrt_rtx", precision,
                                                                               ("8.6", "12.0"))
    assert len(record.activation_bytes) == len(record.profiles) and min(record.activation_bytes) > 0
    types = {"uint8": "UInt8", "int32": "Int32", "float32": "Float"}
    assert len(tensors) == len(record.inputs) + len(record.outputs) == 5
    for name, info in {**record.inputs, **record.outputs}.items():
        line = next(line for line in tensors if f"Name: {name}," in line)
        shape = ",".join(map(str, info.shape))
        assert f"IOMode: {'Input' if name in record.inputs else 'Output'}, DataType: {types[info.dtype]}, " \
               f"Dimensions: [{shape}]" in line
    for profile in record.profiles:
        for name, shapes in profile.shapes(config.vision).items():
            ranges = ", ".join(f"{kind}Shape: {json.dumps(shape, separators=(',', ':'))}" for kind, shape in
                               zip(("Min", "Opt", "Max"), shapes, strict=True))
            assert any(f"Name: {name}," in line and ranges in line for line in tensors)


@PRECISION
def test_layers_keep_the_exports_precision(precision: str, rtx_builds: dict[str, Path]):
    lines = report_of(rtx_builds[precision])
    products = result_types(lines, "(MatMul|Fc|__mye|__fc)[^,]*, LayerType: (gemm|runtime_fusion)")
    assert len(products) > 20 and all(types == {NAMES[precision]} for types in products)
    norms = [line for line in lines if re.match(r"Name: [^,]*Mean[^,]*Sqrt", line)]
    assert len(norms) >= 10
    if precision != "fp32":  # statistics of the normalisation are taken in fp32
        assert all(re.match(r"Name: [^,]*Cast[^,]*Mean[^,]*Sqrt[^,]*Cast", line) for line in norms)


@PRECISION
def test_attention_is_one_fused_kernel_a_block_in_half_precision(precision: str, rtx_builds: dict[str, Path],
                                                                 random_checkpoint: Path):
    fused = result_types(report_of(rtx_builds[precision]), "_gemm_mha")
    depth = ModelConfig.from_checkpoint(random_checkpoint).vision.depth
    assert fused == ([] if precision == "fp32" else [{NAMES[precision]}] * depth)


def test_the_manifest_holds_the_engine_and_nothing_temporary_is_left(rtx_builds: dict[str, Path]):
    build = rtx_builds["fp32"]
    manifest = json.loads((build / "manifest.json").read_text())
    assert manifest["target"] == "tensorrt"
    assert manifest["tensorrt"] == json.loads((build / "engines/vision_encoder/tensorrt.json").read_text())
    assert manifest["tensorrt"]["version"] == load_tensorrt("tensorrt_rtx").__version__
    made_from = manifest["artifacts"]["engines/vision_encoder"]["made_from"]
    assert made_from["graph"] == BuildFolder(build).identity_of("onnx/vision_encoder.onnx")
    assert not list(build.rglob(".tmp-*"))


def test_an_engine_is_built_again_only_when_something_changed(rtx_builds: dict[str, Path], tmp_path: Path,
                                                              capsys: pytest.CaptureFixture):
    build = shutil.copytree(rtx_builds["fp16"], tmp_path / "build", copy_function=shutil.copy2)
    plan = build / "engines/vision_encoder/engine.plan"
    before = plan.stat().st_mtime_ns
    build_engines(build, "tensorrt", ["vision_encoder"], OPTIONS)
    assert plan.stat().st_mtime_ns == before
    assert "up to date" in capsys.readouterr().err
    arguments = ["build", str(build), "--target", "tensorrt", "--flavour", "tensorrt_rtx", "--engine", "vision_encoder",
                 "--compute-capability", "8.9", "--max-image-pixels", "50000", "--max-frames", "2"]
    assert main(arguments) == 0
    assert plan.stat().st_mtime_ns != before
    output = capsys.readouterr().err
    assert re.search(r"0 +1 to 2 +4 to 192 +0.05 Mpixel +[\d,]+ MiB", output)
    assert record_of(build).compute_capabilities == ("8.9",)
    # Back to ONNX Runtime: nothing says TensorRT any more.
    build_engines(build)
    assert "tensorrt" not in json.loads((build / "manifest.json").read_text())
    assert not (build / "engines/vision_encoder/tensorrt.json").exists()


def test_a_head_too_small_for_any_kernel_says_so(tmp_path: Path):
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint", vision={"hidden_size": 32}))
    export(checkpoint, tmp_path / "build", "fp16")
    with pytest.raises(ArtifactError, match=r"tensorrt_rtx 1\..*not supported by a dedicated kernel"):
        build_engines(tmp_path / "build", "tensorrt", ["vision_encoder"], OPTIONS)
    assert not (tmp_path / "build/engines/vision_encoder").exists()
    # In basic operators it needs no kernel of its own.
    export(checkpoint, tmp_path / "build32")
    build_engines(tmp_path / "build32", "tensorrt", ["vision_encoder"], OPTIONS)
    assert (tmp_path / "build32/engines/vision_encoder/engine.plan").exists()


def test_bf16_has_no_engine_on_the_cpu(exports: dict[str, Path]):
    with pytest.raises(ArtifactError, match=r"engines/decoder cannot be made here.*--engine vision_encoder"):
        build_engines(exports["bf16"], "tensorrt", ["decoder"], OPTIONS)


@pytest.mark.parametrize(("options", "message"), [
    ({"flavour": "trt"}, "flavour is 'trt', expected one of tensorrt, tensorrt_rtx"),
    ({"compute_capabilities": ("8.6",)}, "builds for the GPU of this machine only"),
    ({"flavour": "tensorrt_rtx", "compute_capabilities": ("sm86",)}, "compute capability is 'sm86', expected a number"),
])
def test_options_that_make_no_sense_are_refused(options: dict, message: str):
    with pytest.raises(ArtifactError, match=message):
        TensorRTOptions(**options)


def test_a_gpu_that_rtx_does_not_build_for_is_named(exports: dict[str, Path]):
    with pytest.raises(ArtifactError, match=r"builds for no compute capability 9.0, only for 7.5, 8.0, 8.6"):
        build_engines(exports["fp16"], "tensorrt", ["vision_encoder"], TensorRTOptions("tensorrt_rtx", ("9.0",)))


def test_a_missing_or_old_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ArtifactError, match=r"pip install 'qwen3vl-triton\[tensorrt\]'"):
        load_tensorrt("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.9.0.34"))
    with pytest.raises(ArtifactError, match=r"version 10.9.0.34, expected 10.13 or newer, below 11"):
        load_tensorrt("tensorrt")


def test_one_process_builds_with_one_flavour(rtx_builds: dict[str, Path]):
    with pytest.raises(ArtifactError, match="build for tensorrt in a new one"):
        use_polygraphy("tensorrt")


def test_the_bundled_model_builds_with_fused_attention(tmp_path: Path):
    export(BUNDLED, tmp_path, "fp16")
    build_engines(tmp_path, "tensorrt", ["vision_encoder"], OPTIONS)
    record, depth = record_of(tmp_path), ModelConfig.from_checkpoint(BUNDLED).vision.depth
    fused = result_types(report_of(tmp_path), "_gemm_mha")
    assert fused == [{"Half"}] * depth * len(record.profiles)
