"""The operators as ONNX model-local functions of standard operators and ONNX Runtime's own.

For engines without the kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from plugins.decoder_kernels import int8_rows
from plugins.decoder_kernels.int4_rows import GROUP, RUN
from plugins.decoder_kernels.onnx_step_ends import step_inputs, top_logits
from plugins.decoder_kernels.operators import (
    ADD_NORM,
    CACHED_ATTENTION,
    DOMAIN,
    INPUT_NORM,
    INT4_ROUTED_EXPERTS,
    INT4_ROW_PRODUCT,
    INT4_ROW_PRODUCT_ADD,
    INT8_ROW_LOGITS,
    ROUTED_EXPERTS,
    ROW_LOGITS,
    ROW_PRODUCT,
    ROW_PRODUCT_ADD,
    STEP_INPUTS,
    TOP_LOGITS,
    WANTED_NORM,
)
from plugins.deepstack_add.onnx_function import deepstack_add_function
from plugins.function_body import FunctionBody, onnx_function

CONTRIBUTED = "com.microsoft"
_INT, _FLOAT = ir.AttributeType.INT, ir.AttributeType.FLOAT


def decoder_functions(opset: int) -> list[ir.Function]:
    """All operators' functions and DeepstackAdd's, in standard operators of the given opset, 23 or newer."""
    attention_inputs = ("qkv", "query_norm", "key_norm", "cosines", "sines", "keys", "values", "total_lengths")
    attention_attributes = {"num_heads": _INT, "kv_num_heads": _INT, "epsilon": _FLOAT, "scale": _FLOAT}
    int4_experts = ("h", "norm", "router", "gate_up", "gate_up_blocks", "down", "down_blocks")
    return [
        onnx_function(DOMAIN, STEP_INPUTS, ("token_ids", "chosen", "table", "position_ids", "axes", "frequencies"),
                      step_inputs, opset),
        onnx_function(DOMAIN, TOP_LOGITS, ("logits", "draws"), top_logits, opset, {"k": _INT}),
        onnx_function(DOMAIN, ROW_PRODUCT, ("x", "weights"), _row_product, opset),
        onnx_function(DOMAIN, ROW_PRODUCT_ADD, ("x", "weights", "residual"), _row_product_add, opset),
        onnx_function(DOMAIN, ROW_LOGITS, ("x", "weights"), _row_logits, opset),
        onnx_function(DOMAIN, INPUT_NORM, ("h", "norm"), _rms_norm, opset, {"epsilon": _FLOAT}),
        onnx_function(DOMAIN, WANTED_NORM, ("h", "y", "norm", "rows"), _wanted_norm, opset, {"epsilon": _FLOAT}),
        onnx_function(DOMAIN, ADD_NORM, ("h", "y", "norm"), _add_norm, opset, {"epsilon": _FLOAT}),
        onnx_function(DOMAIN, ROUTED_EXPERTS, ("h", "norm", "router", "gate_up", "down"), _routed_experts, opset,
                      {"k": _INT, "epsilon": _FLOAT}),
        onnx_function(DOMAIN, INT4_ROW_PRODUCT, ("x", "codes", "blocks"), _int4_row_product, opset),
        onnx_function(DOMAIN, INT4_ROW_PRODUCT_ADD, ("x", "codes", "blocks", "residual"), _int4_row_product_add, opset),
        onnx_function(DOMAIN, INT8_ROW_LOGITS, ("x", "codes", "blocks"), _int8_row_logits, opset),
        onnx_function(DOMAIN, INT4_ROUTED_EXPERTS, int4_experts, _int4_routed_experts, opset,
                      {"k": _INT, "epsilon": _FLOAT}),
        deepstack_add_function(opset),
        onnx_function(DOMAIN, CACHED_ATTENTION, attention_inputs, _cached_attention, opset, attention_attributes),
    ]


def _rms_norm(body: FunctionBody, x: ir.Value, scale: ir.Value) -> ir.Value:
    return body.op("RMSNormalization", x, scale, of_function={"epsilon": "epsilon"}, axis=-1)


def _row_product(body: FunctionBody, x: ir.Value, weights: ir.Value) -> ir.Value:
    return body.op("MatMul", x, body.op("Transpose", weights, perm=[1, 0]))


def _row_product_add(body: FunctionBody, x: ir.Value, weights: ir.Value, residual: ir.Value) -> ir.Value:
    return body.op("Add", _row_product(body, x, weights), residual)


def _row_logits(body: FunctionBody, x: ir.Value, weights: ir.Value) -> ir.Value:
    return body.op("Cast", _row_product(body, x, weights), to=int(ir.DataType.FLOAT))


def _add_norm(body: FunctionBody, h: ir.Value, y: ir.Value, norm: ir.Value) -> tuple[ir.Value, ir.Value]:
    wide_h, wide_y = (body.op("Cast", x, to=int(ir.DataType.FLOAT)) for x in (h, y))
    total = body.op("CastLike", body.op("Add", wide_h, body.op("ReduceSum", wide_y, body.integers(-2), keepdims=0)), h)
    return _rms_norm(body, total, norm), total


def _wanted_norm(body: FunctionBody, h: ir.Value, y: ir.Value, norm: ir.Value, rows: ir.Value) -> ir.Value:
    of_tokens = body.op("Reshape", h, body.op("Concat", body.integers(-1), body.op("Shape", h, start=-1), axis=0))
    outputs = body.op("Reshape", y, body.op("Concat", body.integers(-1), body.op("Shape", y, start=-2), axis=0))
    normed, _ = _add_norm(body, *(body.op("Gather", x, rows, axis=0) for x in (of_tokens, outputs)), norm)
    return normed


def _routed_experts(body: FunctionBody, h: ir.Value, norm: ir.Value, router: ir.Value, gate_up: ir.Value,
                    down: ir.Value) -> ir.Value:
    return _experts(body, h, norm, router, *(
        lambda chosen, weights=weights: body.op("Gather", weights, chosen, axis=0) for weights in (gate_up, down)))


def _experts(body: FunctionBody, h: ir.Value, norm: ir.Value, router: ir.Value,
             gate_up_of: Callable[[ir.Value], ir.Value], down_of: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """With weights [..., k, rows, columns] of the chosen experts [..., k]."""
    x = _rms_norm(body, h, norm)
    logits = body.op("Cast", _row_product(body, x, router), to=int(ir.DataType.FLOAT))
    best, chosen = body.op("TopK", logits, body.attribute_integer("k"), count=2, axis=-1)
    weights = body.op("Unsqueeze", body.op("Softmax", best, axis=-1), body.integers(-1))
    # [..., k, rows, columns] x [..., 1, columns, 1]
    column = body.op("Unsqueeze", x, body.integers(-2, -1))
    column = body.op("Transpose", column, perm=[0, 1, 3, 2, 4])
    both = body.op("MatMul", gate_up_of(chosen), column)
    pairs = body.op("Reshape", both, body.integers(0, 0, 0, -1, 2))
    gate, up = body.op("Split", pairs, count=2, axis=-1, num_outputs=2)
    activated = body.op("Mul", body.op("Mul", gate, body.op("Sigmoid", gate)), up)
    mixed = body.op("Squeeze", body.op("MatMul", down_of(chosen), activated), body.integers(-1))
    return body.op("CastLike", body.op("Mul", body.op("Cast", mixed, to=int(ir.DataType.FLOAT)), weights), h)


def _dequantised(body: FunctionBody, codes: ir.Value, blocks: ir.Value) -> ir.Value:
    """`dequantise_rows` of [..., K / 2] and [..., K / block, 2], in the type of the blocks."""
    low_half, four_bits = (body.op("Constant", value=ir.Tensor(np.array(number, np.uint8))) for number in (15, 4))
    halves = (body.op("BitwiseAnd", codes, low_half), body.op("BitShift", codes, four_bits, direction="RIGHT"))
    nibbles = body.op("Concat", *(body.op("Unsqueeze", half, body.integers(-1)) for half in halves), axis=-1)
    length = body.op("Mul", body.op("Shape", codes, start=-1), body.integers(2))
    runs = body.op("Div", body.op("Min", length, body.integers(GROUP)), body.integers(RUN))
    groups = body.op("Reshape", nibbles, body.op("Concat", body.integers(-1, 4), runs, body.integers(2, 4), axis=0))
    in_order = body.op("Transpose", groups, perm=[0, 2, 1, 4, 3])  # to run, thread, pair of values, one of the pair
    return body.op("Reshape", _scaled(body, in_order, blocks),
                   body.op("Concat", body.op("Shape", codes, end=-1), length, axis=0))


def _scaled(body: FunctionBody, codes: ir.Value, blocks: ir.Value) -> ir.Value:
    """`scale * (code - zero point)` of [..., K / block, block] codes in their own order, however they are shaped."""
    by_block = body.op("Concat", body.op("Shape", blocks, end=-1), body.integers(-1), axis=0)
    values = body.op("CastLike", body.op("Reshape", codes, by_block), blocks)
    scales, zero_points = body.op("Split", blocks, count=2, axis=-1, num_outputs=2)
    return body.op("Mul", body.op("Sub", values, zero_points), scales)


def _int8_row_logits(body: FunctionBody, x: ir.Value, codes: ir.Value, blocks: ir.Value) -> ir.Value:
    groups = body.op("Reshape", codes, body.integers(-1, 4, int8_rows.GROUP // RUN, 8))
    in_order = body.op("Transpose", groups, perm=[0, 2, 1, 3])
    return _row_logits(body, x, body.op("Reshape", _scaled(body, in_order, blocks), body.op("Shape", codes)))


def _int4_row_product(body: FunctionBody, x: ir.Value, codes: ir.Value, blocks: ir.Value) -> ir.Value:
    return _row_product(body, x, _dequantised(body, codes, blocks))


def _int4_row_product_add(body: FunctionBody, x: ir.Value, codes: ir.Value, blocks: ir.Value,
                          residual: ir.Value) -> ir.Value:
    return body.op("Add", _int4_row_product(body, x, codes, blocks), residual)


def _int4_routed_experts(body: FunctionBody, h: ir.Value, norm: ir.Value, router: ir.Value, gate_up: ir.Value,
                         gate_up_blocks: ir.Value, down: ir.Value, down_blocks: ir.Value) -> ir.Value:
    def of_chosen(codes: ir.Value, blocks: ir.Value) -> Callable[[ir.Value], ir.Value]:
        return lambda chosen: _dequantised(body, *(body.op("Gather", x, chosen, axis=0) for x in (codes, blocks)))

    return _experts(body, h, norm, router, of_chosen(gate_up, gate_up_blocks), of_chosen(down, down_blocks))


def _cached_attention(body: FunctionBody, qkv: ir.Value, query_norm: ir.Value, key_norm: ir.Value, cosines: ir.Value,
                      sines: ir.Value, keys: ir.Value, values: ir.Value,
                      total_lengths: ir.Value) -> tuple[ir.Value, ...]:
    size = body.op("Shape", keys, start=3, end=4)
    queries, shared = (body.op("Mul", body.attribute_integer(heads), size) for heads in ("num_heads", "kv_num_heads"))
    query, key, value = body.op("Split", qkv, body.op("Concat", queries, shared, shared, axis=0), count=3, axis=-1)
    angles = [body.op("CastLike", x, qkv) for x in (cosines, sines)]

    def normed_and_turned(x: ir.Value, norm: ir.Value, heads: str) -> ir.Value:
        shape = body.op("Concat", body.integers(0, 0), body.attribute_integer(heads), size, axis=0)
        per_head = body.op("Reshape", x, shape)
        normed = body.op("Reshape", _rms_norm(body, per_head, norm), body.integers(0, 0, -1))
        return body.op("RotaryEmbedding", normed, *angles, of_function={"num_heads": heads})

    query = normed_and_turned(query, query_norm, "num_heads")
    key = normed_and_turned(key, key_norm, "kv_num_heads")
    one = body.op("CastLike", body.integers(1), total_lengths)
    longest = body.op("ReduceMax", total_lengths, keepdims=0)
    return body.op("GroupQueryAttention", query, key, value, keys, values, body.op("Sub", total_lengths, one), longest,
                   count=3, domain=CONTRIBUTED,
                   of_function={"num_heads": "num_heads", "kv_num_heads": "kv_num_heads", "scale": "scale"})
