"""The operators as ONNX model-local functions of standard operators, for engines without the kernels."""

from __future__ import annotations

import onnx_ir as ir

from plugins.function_body import FunctionBody, onnx_function
from plugins.vision_kernels.operators import ADD_POSITIONS, BIAS_GELU, DOMAIN, VISION_ATTENTION


def vision_functions(opset: int) -> list[ir.Function]:
    """All operators' functions, in standard operators of the given opset, 23 or newer."""
    return [
        onnx_function(DOMAIN, VISION_ATTENTION, ("qkv", "bias", "cosines", "sines"), _vision_attention, opset,
                      {"num_heads": ir.AttributeType.INT}),
        onnx_function(DOMAIN, BIAS_GELU, ("x", "bias"), _bias_gelu, opset),
        onnx_function(DOMAIN, ADD_POSITIONS, ("x", "bias", "table", "indices", "weights"), _add_positions, opset),
    ]


def _vision_attention(body: FunctionBody, qkv: ir.Value, bias: ir.Value, cosines: ir.Value,
                      sines: ir.Value) -> ir.Value:
    one = body.integers(1)
    every_frame = body.op("Concat", body.op("Shape", qkv, start=0, end=1), one, one, axis=0)
    tables = [body.op("Expand", body.op("CastLike", x, qkv), every_frame) for x in (cosines, sines)]
    query, key, value = body.op("Split", body.op("Add", qkv, bias), count=3, axis=-1, num_outputs=3)
    query, key = (body.op("RotaryEmbedding", x, *tables, of_function={"num_heads": "num_heads"}) for x in (query, key))
    return body.op("Attention", query, key, value,
                   of_function={"q_num_heads": "num_heads", "kv_num_heads": "num_heads"})


def _bias_gelu(body: FunctionBody, x: ir.Value, bias: ir.Value) -> ir.Value:
    return body.op("Gelu", body.op("Add", x, bias), approximate="tanh")


def _add_positions(body: FunctionBody, x: ir.Value, bias: ir.Value, table: ir.Value, indices: ir.Value,
                   weights: ir.Value) -> ir.Value:
    shares = body.op("CastLike", body.op("Unsqueeze", weights, body.integers(-1)), x)
    rows = body.op("Mul", body.op("Gather", table, indices, axis=0), shares)
    positions = body.op("ReduceSum", rows, body.integers(1), keepdims=0)
    return body.op("Add", body.op("Add", x, bias), positions)
