"""The graph in half precision, run on the CPU, against the same in fp32: visual rows keep their direction."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from engines.tensorrt.rewrite import use_basic_operators
from export.exporter import PRECISIONS
from qwen3vl.config import ModelConfig
from tests.engines.tensorrt.support import rounded_after_each_node, vision_inputs


def run(graph: Path | ir.Model, folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    path = graph
    if isinstance(graph, ir.Model):
        path = folder / "rounded.onnx"
        ir.save(graph, path)
    rows = onnxruntime.InferenceSession(path).run(None, inputs)[0]
    if path is not graph:
        path.unlink()
    return rows


@pytest.mark.parametrize("basic", [False, True], ids=["standard operators", "basic operators"])
@pytest.mark.parametrize(("precision", "error"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_rows_keep_their_direction(precision: str, error: float, basic: bool, exports: dict[str, Path],
                                   random_checkpoint: Path):
    config = ModelConfig.from_checkpoint(random_checkpoint)
    inputs = vision_inputs(config.vision, frames=2, grid=(8, 6))
    folder, dtype = exports[precision] / "onnx", PRECISIONS[precision]
    expected = run(exports["fp32"] / "onnx/vision_encoder.onnx", folder, inputs)
    model = ir.load(folder / "vision_encoder.onnx")
    if basic:
        use_basic_operators(model, dtype)
    actual = run(rounded_after_each_node(model, dtype), folder, inputs)
    cosine = (actual * expected).sum(-1) / np.linalg.norm(actual, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert len(cosine) == config.rows_per_token * 2 * 8 * 6 // 4
    assert cosine.min() > 0.999
    relative = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    # Not exact either: the roundings were there.
    assert error / 50 < relative < error


def test_the_runtimes_own_fp16_agrees_with_the_roundings_made_explicit(exports: dict[str, Path],
                                                                       random_checkpoint: Path):
    inputs = vision_inputs(ModelConfig.from_checkpoint(random_checkpoint).vision, frames=1, grid=(4, 4))
    folder = exports["fp16"] / "onnx"
    own = run(folder / "vision_encoder.onnx", folder, inputs)
    rounded = run(rounded_after_each_node(ir.load(folder / "vision_encoder.onnx"), PRECISIONS["fp16"]), folder, inputs)
    assert np.linalg.norm(own - rounded) < 2e-3 * np.linalg.norm(rounded)
