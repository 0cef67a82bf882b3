"""One node of the decoder's operators, as its ONNX function computes it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime

from plugins.decoder_kernels import operators
from plugins.decoder_kernels.onnx_functions import CONTRIBUTED, decoder_functions

OPSET = 23
TYPES = {np.dtype(np.float32): ir.DataType.FLOAT, np.dtype(np.float64): ir.DataType.DOUBLE,
         np.dtype(np.int32): ir.DataType.INT32, np.dtype(np.int64): ir.DataType.INT64,
         np.dtype(np.uint8): ir.DataType.UINT8}


def run(op_type: str, arrays: dict[str, np.ndarray], outputs: int = 1, **attributes) -> list[np.ndarray]:
    """One node of the operator in ONNX Runtime."""
    inputs = [ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(TYPES[array.dtype]))
              for name, array in arrays.items()]
    results = [ir.Value(name=f"result_{i}") for i in range(outputs)]
    node = ir.node(op_type, inputs, attributes, domain=operators.DOMAIN, outputs=results)
    graph = ir.Graph(inputs, results, nodes=[node], name="one",
                     opset_imports={"": OPSET, CONTRIBUTED: 1, operators.DOMAIN: operators.VERSION})
    model = ir.Model(graph, ir_version=11, functions=decoder_functions(OPSET))
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, arrays)


def numbers(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
