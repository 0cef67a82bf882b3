"""The vision operators' ONNX functions, in ONNX Runtime on the CPU, against the numpy definitions."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from plugins.vision_kernels.onnx_functions import vision_functions
from plugins.vision_kernels.operators import (
    ADD_POSITIONS,
    BIAS_GELU,
    DOMAIN,
    VERSION,
    VISION_ATTENTION,
    add_positions,
    bias_gelu,
    vision_attention,
)

OPSET = 23


def run(name: str, inputs: dict[str, np.ndarray], **attributes: int) -> np.ndarray:
    """One node of the operator, expanded from its function."""
    values = [ir.Value(name=key, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape))
              for key, array in inputs.items()]
    node = ir.node(name, values, attributes, domain=DOMAIN, outputs=[ir.val("result")])
    node.outputs[0].type = values[0].type
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": OPSET, DOMAIN: VERSION}, name="test")
    model = ir.Model(graph, ir_version=11, functions=vision_functions(OPSET))
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, inputs)[0]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attention_inputs(frames: int, patches: int, heads: int, size: int) -> dict[str, np.ndarray]:
    angles = 10 * random(patches, size // 2, seed=3)
    return {"qkv": 2 * random(frames, patches, 3 * heads * size), "bias": random(3 * heads * size, seed=1),
            "cosines": np.cos(angles), "sines": np.sin(angles)}


@pytest.mark.parametrize(("frames", "patches", "heads", "size"), [(1, 1, 1, 72), (2, 20, 3, 72), (3, 7, 2, 64)])
def test_attention(frames: int, patches: int, heads: int, size: int):
    inputs = attention_inputs(frames, patches, heads, size)
    np.testing.assert_allclose(run(VISION_ATTENTION, inputs, num_heads=heads),
                               vision_attention(**inputs, num_heads=heads), rtol=1e-4, atol=1e-5)


def test_frames_attend_to_themselves_alone():
    inputs = attention_inputs(2, 6, 2, 64)
    before = vision_attention(**inputs, num_heads=2)
    inputs["qkv"][1] += 1
    after = vision_attention(**inputs, num_heads=2)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 0.1


def test_gelu():
    inputs = {"x": 3 * random(2, 5, 16), "bias": random(16, seed=1)}
    np.testing.assert_allclose(run(BIAS_GELU, inputs), bias_gelu(**inputs), rtol=1e-5, atol=1e-6)


def test_positions():
    indices = np.random.default_rng(4).integers(0, 9, (5, 4)).astype(np.int32)
    inputs = {"x": random(2, 5, 16), "bias": random(16, seed=1), "table": random(9, 16, seed=2), "indices": indices,
              "weights": random(5, 4, seed=3)}
    np.testing.assert_allclose(run(ADD_POSITIONS, inputs), add_positions(**inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("operator", [vision_attention, bias_gelu, add_positions])
def test_results_have_the_type_of_the_first_input(operator: Callable):
    names = {vision_attention: attention_inputs(1, 2, 1, 64) | {"num_heads": 1},
             bias_gelu: {"x": random(1, 8), "bias": random(8)},
             add_positions: {"x": random(1, 1, 8), "bias": random(8), "table": random(2, 8),
                             "indices": np.zeros((1, 4), np.int32), "weights": random(1, 4)}}[operator]
    first = next(iter(names))
    assert operator(**{**names, first: names[first].astype(np.float16)}).dtype == np.float16
