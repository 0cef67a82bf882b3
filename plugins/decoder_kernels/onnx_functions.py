"""The operators as ONNX model-local functions of standard operators and ONNX Runtime's own.

For engines without the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from plugins.decoder_kernels.operators import (
    ADD_NORM,
    CACHED_ATTENTION,
    DOMAIN,
    ROUTED_EXPERTS,
    ROW_LOGITS,
    ROW_PRODUCT,
    ROW_PRODUCT_ADD,
)

CONTRIBUTED = "com.microsoft"
_INT, _FLOAT = ir.AttributeType.INT, ir.AttributeType.FLOAT


def decoder_functions(opset: int) -> list[ir.Function]:
    """All operators' functions, in standard operators of the given opset, 23 or newer."""
    attention_inputs = ("qkv", "query_norm", "key_norm", "cosines", "sines", "keys", "values", "total_lengths")
    attention_attributes = {"num_heads": _INT, "kv_num_heads": _INT, "epsilon": _FLOAT, "scale": _FLOAT}
    return [
        _function(ROW_PRODUCT, ("x", "weights"), _row_product, opset),
        _function(ROW_PRODUCT_ADD, ("x", "weights", "residual"), _row_product_add, opset),
        _function(ROW_LOGITS, ("x", "weights"), _row_logits, opset),
        _function(ADD_NORM, ("h", "y", "norm"), _add_norm, opset, {"epsilon": _FLOAT}),
        _function(ROUTED_EXPERTS, ("h", "norm", "router", "gate_up", "down"), _routed_experts, opset,
                  {"k": _INT, "epsilon": _FLOAT}),
        _function(CACHED_ATTENTION, attention_inputs, _cached_attention, opset, attention_attributes),
    ]


class _Body:
    """The nodes of one function."""

    def __init__(self, attributes: dict[str, ir.AttributeType]):
        self.nodes: list[ir.Node] = []
        self._attributes = attributes

    def op(self, op_type: str, *inputs: ir.Value | None, count: int = 1, domain: str = "",
           of_function: dict[str, str] | None = None, **values) -> ir.Value | tuple[ir.Value, ...]:
        """Append a node. `of_function`: its attributes that are those of the function, by the names of both."""
        node = ir.node(op_type, inputs, values, num_outputs=count, domain=domain)
        for own, name in (of_function or {}).items():
            node.attributes.add(ir.RefAttr(own, name, self._attributes[name]))
        self.nodes.append(node)
        return node.outputs[0] if count == 1 else tuple(node.outputs)

    def integers(self, *values: int) -> ir.Value:
        return self.op("Constant", value_ints=list(values))

    def integer(self, attribute: str) -> ir.Value:
        """An attribute of the function as int64 [1]."""
        return self.op("Reshape", self.op("Constant", of_function={"value_int": attribute}), self.integers(1))

    def rms_norm(self, x: ir.Value, scale: ir.Value) -> ir.Value:
        return self.op("RMSNormalization", x, scale, of_function={"epsilon": "epsilon"}, axis=-1)


def _function(name: str, inputs: Sequence[str], body: Callable[..., ir.Value | Sequence[ir.Value]], opset: int,
              attributes: dict[str, ir.AttributeType] | None = None) -> ir.Function:
    values, nodes = [ir.val(name) for name in inputs], _Body(attributes or {})
    outputs = body(nodes, *values)
    outputs = [outputs] if isinstance(outputs, ir.Value) else list(outputs)
    for index, out in enumerate(outputs):
        out.name = f"out_{index}"
    graph = ir.Graph(values, outputs, nodes=nodes.nodes, opset_imports={"": opset, CONTRIBUTED: 1}, name=name)
    return ir.Function(DOMAIN, name, "", graph=graph,
                       attributes=[ir.Attr(attribute, kind, None) for attribute, kind in (attributes or {}).items()])


def _row_product(body: _Body, x: ir.Value, weights: ir.Value) -> ir.Value:
    return body.op("MatMul", x, body.op("Transpose", weights, perm=[1, 0]))


def _row_product_add(body: _Body, x: ir.Value, weights: ir.Value, residual: ir.Value) -> ir.Value:
    return body.op("Add", _row_product(body, x, weights), residual)


def _row_logits(body: _Body, x: ir.Value, weights: ir.Value) -> ir.Value:
    return body.op("Cast", _row_product(body, x, weights), to=int(ir.DataType.FLOAT))


def _add_norm(body: _Body, h: ir.Value, y: ir.Value, norm: ir.Value) -> tuple[ir.Value, ir.Value]:
    summed = body.op("ReduceSum", y, body.integers(-2), keepdims=0)
    total = body.op("Add", h, body.op("CastLike", summed, h))
    return body.rms_norm(total, norm), total


def _routed_experts(body: _Body, h: ir.Value, norm: ir.Value, router: ir.Value, gate_up: ir.Value,
                    down: ir.Value) -> ir.Value:
    x = body.rms_norm(h, norm)
    logits = body.op("Cast", _row_product(body, x, router), to=int(ir.DataType.FLOAT))
    best, chosen = body.op("TopK", logits, body.integer("k"), count=2, axis=-1)
    weights = body.op("Unsqueeze", body.op("Softmax", best, axis=-1), body.integers(-1))
    # [..., k, rows, columns] x [..., 1, columns, 1]
    column = body.op("Unsqueeze", x, body.integers(-2, -1))
    column = body.op("Transpose", column, perm=[0, 1, 3, 2, 4])
    both = body.op("MatMul", body.op("Gather", gate_up, chosen, axis=0), column)
    pairs = body.op("Reshape", both, body.integers(0, 0, 0, -1, 2))
    gate, up = body.op("Split", pairs, count=2, axis=-1, num_outputs=2)
    activated = body.op("Mul", body.op("Mul", gate, body.op("Sigmoid", gate)), up)
    mixed = body.op("Squeeze", body.op("MatMul", body.op("Gather", down, chosen, axis=0), activated), body.integers(-1))
    return body.op("Mul", body.op("Cast", mixed, to=int(ir.DataType.FLOAT)), weights)


def _cached_attention(body: _Body, qkv: ir.Value, query_norm: ir.Value, key_norm: ir.Value, cosines: ir.Value,
                      sines: ir.Value, keys: ir.Value, values: ir.Value,
                      total_lengths: ir.Value) -> tuple[ir.Value, ...]:
    size = body.op("Shape", keys, start=3, end=4)
    queries, shared = (body.op("Mul", body.integer(heads), size) for heads in ("num_heads", "kv_num_heads"))
    query, key, value = body.op("Split", qkv, body.op("Concat", queries, shared, shared, axis=0), count=3, axis=-1)
    angles = [body.op("CastLike", x, qkv) for x in (cosines, sines)]

    def normed_and_turned(x: ir.Value, norm: ir.Value, heads: str) -> ir.Value:
        per_head = body.op("Reshape", x, body.op("Concat", body.integers(0, 0), body.integer(heads), size, axis=0))
        normed = body.op("Reshape", body.rms_norm(per_head, norm), body.integers(0, 0, -1))
        return body.op("RotaryEmbedding", normed, *angles, of_function={"num_heads": heads})

    query = normed_and_turned(query, query_norm, "num_heads")
    key = normed_and_turned(key, key_norm, "kv_num_heads")
    one = body.op("CastLike", body.integers(1), total_lengths)
    longest = body.op("ReduceMax", total_lengths, keepdims=0)
    return body.op("GroupQueryAttention", query, key, value, keys, values, body.op("Sub", total_lengths, one), longest,
                   count=3, domain=CONTRIBUTED,
                   of_function={"num_heads": "num_heads", "kv_num_heads": "kv_num_heads", "scale": "scale"})
