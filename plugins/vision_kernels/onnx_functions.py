"""The operators as ONNX model-local functions of standard operators, for engines without the kernels."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from plugins.vision_kernels.operators import ADD_POSITIONS, BIAS_GELU, DOMAIN, VISION_ATTENTION


def vision_functions(opset: int) -> list[ir.Function]:
    """All operators' functions, in standard operators of the given opset, 23 or newer."""
    return [_function(VISION_ATTENTION, ("qkv", "bias", "cosines", "sines"), _vision_attention, opset, ["num_heads"]),
            _function(BIAS_GELU, ("x", "bias"), _bias_gelu, opset),
            _function(ADD_POSITIONS, ("x", "bias", "table", "indices", "weights"), _add_positions, opset)]


class _Body:
    """The nodes of one function."""

    def __init__(self):
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value, count: int = 1, attributes: tuple[ir.Attr, ...] = (),
           **values) -> ir.Value | tuple[ir.Value, ...]:
        node = ir.node(op_type, inputs, values, num_outputs=count)
        for attribute in attributes:
            node.attributes.add(attribute)
        self.nodes.append(node)
        return node.outputs[0] if count == 1 else tuple(node.outputs)


def _function(name: str, inputs: tuple[str, ...], body: Callable[..., ir.Value], opset: int,
              attributes: list[str] = ()) -> ir.Function:
    values, nodes = [ir.val(name) for name in inputs], _Body()
    out = body(nodes, *values)
    out.name = "out"
    graph = ir.Graph(values, [out], nodes=nodes.nodes, opset_imports={"": opset}, name=name)
    return ir.Function(DOMAIN, name, "", graph=graph,
                       attributes=[ir.Attr(attribute, ir.AttributeType.INT, None) for attribute in attributes])


def _vision_attention(body: _Body, qkv: ir.Value, bias: ir.Value, cosines: ir.Value, sines: ir.Value) -> ir.Value:
    def heads(name: str) -> ir.RefAttr:
        return ir.RefAttr(name, "num_heads", ir.AttributeType.INT)

    one = body.op("Constant", value_ints=[1])
    every_frame = body.op("Concat", body.op("Shape", qkv, start=0, end=1), one, one, axis=0)
    tables = [body.op("Expand", body.op("CastLike", x, qkv), every_frame) for x in (cosines, sines)]
    query, key, value = body.op("Split", body.op("Add", qkv, bias), count=3, axis=-1, num_outputs=3)
    query, key = (body.op("RotaryEmbedding", x, *tables, attributes=(heads("num_heads"),)) for x in (query, key))
    return body.op("Attention", query, key, value, attributes=(heads("q_num_heads"), heads("kv_num_heads")))


def _bias_gelu(body: _Body, x: ir.Value, bias: ir.Value) -> ir.Value:
    return body.op("Gelu", body.op("Add", x, bias), approximate="tanh")


def _add_positions(body: _Body, x: ir.Value, bias: ir.Value, table: ir.Value, indices: ir.Value,
                   weights: ir.Value) -> ir.Value:
    shares = body.op("CastLike", body.op("Unsqueeze", weights, body.op("Constant", value_ints=[-1])), x)
    rows = body.op("Mul", body.op("Gather", table, indices, axis=0), shares)
    positions = body.op("ReduceSum", rows, body.op("Constant", value_ints=[1]), keepdims=0)
    return body.op("Add", body.op("Add", x, bias), positions)
