"""The graph in basic operators, for TensorRT releases without attention and rotary embedding, computes the same."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from engines.tensorrt.rewrite import BASIC_OPSET, use_basic_operators
from export.exporter import PRECISIONS
from qwen3vl.config import ModelConfig
from tests.engines.tensorrt.support import vision_inputs


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_basic_operators_give_the_same_rows(precision: str, tolerance: float, exports: dict[str, Path],
                                            random_checkpoint: Path):
    folder, config = exports[precision] / "onnx", ModelConfig.from_checkpoint(random_checkpoint).vision
    model = ir.load(folder / "vision_encoder.onnx")
    assert use_basic_operators(model, PRECISIONS[precision]) == 3 * config.depth
    assert not {"Attention", "RotaryEmbedding"} & {node.op_type for node in model.graph}
    assert model.graph.opset_imports[""] == BASIC_OPSET
    rewritten = folder / "basic.onnx"
    ir.save(model, rewritten)
    inputs = vision_inputs(config, frames=3, grid=(6, 4))
    expected, actual = (onnxruntime.InferenceSession(path).run(None, inputs)[0]
                        for path in (folder / "vision_encoder.onnx", rewritten))
    rewritten.unlink()
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
