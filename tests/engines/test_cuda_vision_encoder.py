"""The vision encoder's engine for a GPU, as far as a CPU shows it: the fused graph's numbers, files, errors.

ONNX Runtime runs its contributed operators on the CPU too, and the project's own from their ONNX functions.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from client.cli import main
from engines.builder import build_engines
from engines.onnxruntime.cuda_build import CudaBuildOptions
from engines.onnxruntime.cuda_graph import fuse_for_cuda
from engines.onnxruntime.cuda_session import KERNEL_LIBRARY, PROVIDER
from engines.vision_encoder import vision_encoder
from export.build_folder import BuildFolder
from plugins.vision_kernels.onnx_functions import vision_functions
from qwen3vl.config import ModelConfig, VisionConfig
from qwen3vl.errors import ArtifactError
from tests.engines.support import export_precisions
from tests.engines.tensorrt.support import vision_inputs
from tests.support.checkpoints import VISION, make_checkpoint
from tests.support.processor_folder import add_processor_files

# Two heads of 72, the real head size.
REAL_HEADS = {"hidden_size": 144, "num_heads": 2}
DEPTH = VISION["depth"]
MERGERS = 1 + len(VISION["deepstack_visual_indexes"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_processor_files(make_checkpoint(tmp_path_factory.mktemp("checkpoint"), vision=REAL_HEADS))


@pytest.fixture(scope="module")
def exports(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return export_precisions(checkpoint, tmp_path_factory)


@pytest.fixture(scope="module")
def vision(checkpoint: Path) -> VisionConfig:
    return ModelConfig.from_checkpoint(checkpoint).vision


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Stands for the compiled library, which only a GPU can load."""
    path = tmp_path / "given.so"
    path.write_bytes(b"kernels")
    return path


def graph_of(export_folder: Path) -> Path:
    return export_folder / "onnx/vision_encoder.onnx"


def run_on_cpu(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """A graph, its operators of this project expanded from their functions."""
    model = ir.load(path)
    model.functions.update({function.identifier(): function for function in vision_functions(23)})
    expanded = path.with_name("expanded.onnx")
    ir.save(model, expanded)
    rows = onnxruntime.InferenceSession(expanded).run(None, inputs)[0]
    expanded.unlink()
    return rows


@pytest.mark.parametrize("kernels", [False, True], ids=["own operators", "vision kernels"])
@pytest.mark.parametrize(("frames", "grid"), [(1, (4, 6)), (3, (6, 4))])
def test_fused_graph_computes_the_same(kernels: bool, frames: int, grid: tuple[int, int], exports: dict[str, Path],
                                       vision: VisionConfig, tmp_path: Path):
    inputs, source = vision_inputs(vision, frames=frames, grid=grid), graph_of(exports["fp32"])
    expected = onnxruntime.InferenceSession(source).run(None, inputs)[0]
    model = ir.load(source)
    fuse_for_cuda(model, kernels=kernels)
    fused = source.with_name("fused.onnx")
    ir.save(model, fused)
    np.testing.assert_allclose(run_on_cpu(fused, inputs), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    fused.unlink()


def test_no_bias_and_no_residual_sum_is_left_alone(exports: dict[str, Path]):
    model = ir.load(graph_of(exports["fp16"]))
    fuse_for_cuda(model, kernels=True)
    counts = Counter((node.domain, node.op_type) for node in model.graph)
    assert counts["qwen3vl", "VisionAttention"] == counts["qwen3vl", "BiasGelu"] == DEPTH
    assert counts["qwen3vl", "AddPositions"] == 1 and counts["com.microsoft", "BiasGelu"] == MERGERS
    # Two for each block, but the first normalisation, which has no linear layer in front; the last is the merger's.
    assert counts["com.microsoft", "SkipLayerNormalization"] == 2 * DEPTH
    # Left: the offset of the pixels, and the bias of each merger's last layer.
    assert counts["", "Add"] == 1 + MERGERS
    assert not {"Attention", "RotaryEmbedding", "Split", "Gelu", "Gather", "ReduceSum"} & {name for _, name in counts}


def test_another_graph_is_refused(exports: dict[str, Path]):
    model = ir.load(graph_of(exports["fp32"]))
    gelu = next(node for node in model.graph if node.op_type == "Gelu")
    gelu.replace_input_with(0, gelu.inputs[0].producer().inputs[0])
    with pytest.raises(ValueError, match="is not the output of a linear layer with bias"):
        fuse_for_cuda(model, kernels=True)


def engine_files(build: Path) -> set[str]:
    return {path.name for path in (build / "engines/vision_encoder").iterdir()}


def test_engine_is_the_fused_graph_with_its_weights(exports: dict[str, Path], vision: VisionConfig):
    build, inputs = exports["fp32"], vision_inputs(vision, frames=2, grid=(4, 4))
    build_engines(build, "cuda", ["vision_encoder"])
    assert engine_files(build) == {"engine.onnx", "weights.bin"}
    expected = onnxruntime.InferenceSession(graph_of(build)).run(None, inputs)[0]
    engine = build / "engines/vision_encoder/engine.onnx"
    np.testing.assert_allclose(run_on_cpu(engine, inputs), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    types = {node.op_type for node in ir.load(engine).graph}
    assert {"SkipLayerNormalization", "MultiHeadAttention", "FastGelu"} <= types


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_engine_with_kernels_brings_their_library(precision: str, exports: dict[str, Path], library: Path,
                                                  capsys: pytest.CaptureFixture):
    build = exports[precision]
    arguments = ["build", str(build), "--target", "cuda", "--engine", "vision_encoder"]
    assert main([*arguments, "--vision-kernels", str(library)]) == 0
    assert engine_files(build) == {"engine.onnx", "weights.bin", KERNEL_LIBRARY}
    folder = build / "engines/vision_encoder"
    assert (folder / KERNEL_LIBRARY).read_bytes() == b"kernels"
    assert "VisionAttention" in {node.op_type for node in ir.load(folder / "engine.onnx").graph}

    assert main([*arguments, "--vision-kernels", str(library)]) == 0
    assert "up to date" in capsys.readouterr().err
    library.write_bytes(b"other kernels")
    assert main([*arguments, "--vision-kernels", str(library)]) == 0
    assert (folder / KERNEL_LIBRARY).read_bytes() == b"other kernels"
    assert main(arguments) == 0
    assert engine_files(build) == {"engine.onnx", "weights.bin"}


def test_unsuitable_kernels_are_refused(exports: dict[str, Path], random_build: Path, tmp_path: Path, library: Path):
    def build(folder: Path, path: Path) -> None:
        build_engines(folder, "cuda", ["vision_encoder"], cuda=CudaBuildOptions(path))

    with pytest.raises(ArtifactError, match=r"nowhere\.so does not exist.*cmake -S plugins/vision_kernels"):
        build(exports["fp16"], tmp_path / "nowhere.so")
    with pytest.raises(ArtifactError, match=r"heads of 64 or 72 in fp16 or bf16.*has heads of 72 in fp32"):
        build(exports["fp32"], library)
    with pytest.raises(ArtifactError, match="has heads of 12 in fp32"):
        build(random_build, library)


@pytest.mark.skipif(PROVIDER in onnxruntime.get_available_providers(), reason="ONNX Runtime for GPUs is installed")
def test_a_machine_without_cuda_says_what_to_install(exports: dict[str, Path], vision: VisionConfig):
    build_engines(exports["fp16"], "cuda", ["vision_encoder"])
    encoder = vision_encoder(exports["fp16"] / "engines")
    with pytest.raises(ArtifactError, match=r"is for a GPU.*install onnxruntime-gpu"):
        encoder.encode(np.zeros((4, vision.patch_dim), np.uint8), np.array([[1, 2, 2]]))


def test_the_cpu_engine_comes_back(exports: dict[str, Path], vision: VisionConfig):
    build = exports["fp16"]
    for target, on_gpu in (("cuda", True), ("cpu", False)):
        build_engines(build, target, ["vision_encoder"])
        assert BuildFolder(build).manifest["target"] == target
        assert ("FastGelu" in {node.op_type for node in ir.load(build / "engines/vision_encoder/engine.onnx").graph}
                or not on_gpu)
    rows = vision_encoder(build / "engines").encode(np.zeros((4, vision.patch_dim), np.uint8), np.array([[1, 2, 2]]))
    assert np.isfinite(rows).all()
