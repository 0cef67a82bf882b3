"""Writing operators that a TensorRT release lacks in basic ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

# All operators of the rewritten graph exist from here on (Gelu is the latest), and every supported release knows it.
BASIC_OPSET = 20


def use_basic_operators(model: ir.Model, dtype: ir.DataType) -> int:
    """Replace `RotaryEmbedding` and `Attention`, in place.

    The attention becomes the product, softmax, product that TensorRT's own fusion looks for.

    Args:
        dtype: element type of the graph's activations.

    Returns:
        How many were replaced.
    """
    replace = {"RotaryEmbedding": _rotary_embedding, "Attention": _attention}
    nodes = [node for node in model.graph if node.domain == "" and node.op_type in replace]
    for index, node in enumerate(nodes):
        body = _Body(f"{node.name}.{index}")
        result = replace[node.op_type](body, node, dtype)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], body.nodes, node.outputs, [result])
    model.graph.opset_imports[""] = BASIC_OPSET
    return len(nodes)


class _Body:
    """The nodes that replace one node."""

    def __init__(self, name: str):
        self.nodes: list[ir.Node] = []
        self._name = name

    def op(self, op_type: str, *inputs: ir.Value, count: int = 1, **attributes) -> ir.Value | tuple[ir.Value, ...]:
        name = f"{self._name}.{len(self.nodes)}"
        outputs = [ir.val(f"{name}.{index}") for index in range(count)]
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=outputs, name=name))
        return outputs[0] if count == 1 else tuple(outputs)

    def constant(self, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
        return self.op("Constant", value=ir.Tensor(array.astype(dtype.numpy()), dtype=dtype))

    def heads(self, x: ir.Value, count: int) -> ir.Value:
        """[F, P, heads * d] to [F, P, heads, d]."""
        return self.op("Reshape", x, self.constant(np.array([0, 0, count, -1]), ir.DataType.INT64))

    def joined(self, x: ir.Value) -> ir.Value:
        """[F, P, heads, d] to [F, P, heads * d]."""
        return self.op("Reshape", x, self.constant(np.array([0, 0, -1]), ir.DataType.INT64))


def _rotary_embedding(body: _Body, node: ir.Node, dtype: ir.DataType) -> ir.Value:
    """Halves (a, b) of each head become (a cos - b sin, b cos + a sin)."""
    x, cos, sin = node.inputs
    axis = body.constant(np.array([2]), ir.DataType.INT64)
    cos, sin = (body.op("Unsqueeze", angles, axis) for angles in (cos, sin))
    first, second = body.op("Split", body.heads(x, node.attributes["num_heads"].as_int()), count=2, axis=-1,
                            num_outputs=2)
    rotated = (body.op("Sub", body.op("Mul", first, cos), body.op("Mul", second, sin)),
               body.op("Add", body.op("Mul", second, cos), body.op("Mul", first, sin)))
    return body.joined(body.op("Concat", *rotated, axis=-1))


def _attention(body: _Body, node: ir.Node, dtype: ir.DataType) -> ir.Value:
    """Softmax of scaled products, times values. Queries are scaled first, so that no fp16 score overflows."""
    count = node.attributes["q_num_heads"].as_int()
    query, key, val = (body.heads(x, count) for x in node.inputs)
    scale = body.constant(np.array(node.attributes["scale"].as_float()), dtype)
    query = body.op("Transpose", body.op("Mul", query, scale), perm=[0, 2, 1, 3])
    scores = body.op("MatMul", query, body.op("Transpose", key, perm=[0, 2, 3, 1]))
    mixed = body.op("MatMul", body.op("Softmax", scores, axis=-1), body.op("Transpose", val, perm=[0, 2, 1, 3]))
    return body.joined(body.op("Transpose", mixed, perm=[0, 2, 1, 3]))
