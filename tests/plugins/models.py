"""Small ONNX models of DeepstackAdd."""

from __future__ import annotations

import onnx_ir as ir

from plugins.deepstack_add.onnx_function import (
    deepstack_add_attributes,
    deepstack_add_domain,
    deepstack_add_function,
)
from plugins.deepstack_add.operator import DOMAIN, NAME

OPSET = 23


def one_node_model(float_type: ir.DataType = ir.DataType.FLOAT, id_type: ir.DataType = ir.DataType.INT32, *,
                   leading: int = 2, level: int = 1, vocab_size: int = 100, hidden_size: int | str = "hidden_size",
                   ) -> ir.Model:
    """One DeepstackAdd of hidden [leading dimensions..., H], token_ids and visual_rows [R, H]; output `out`."""
    sizes: list[int | str] = [f"size_{axis}" for axis in range(leading)]

    def tensor(name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))

    inputs = [tensor("hidden", float_type, [*sizes, hidden_size]), tensor("token_ids", id_type, sizes),
              tensor("visual_rows", float_type, ["rows", hidden_size])]
    out = tensor("out", float_type, [*sizes, hidden_size])
    node = ir.node(NAME, inputs, deepstack_add_attributes(level=level, vocab_size=vocab_size), domain=DOMAIN,
                   outputs=[out], name="deepstack_add")
    graph = ir.Graph(inputs, [out], nodes=[node], name="deepstack_add",
                     opset_imports={"": OPSET, **deepstack_add_domain()})
    return ir.Model(graph, ir_version=11, functions=[deepstack_add_function(OPSET)])
