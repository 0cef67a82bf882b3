"""Forms of the vision encoder's graph for ONNX Runtime CUDA, and the provider options that go with them."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from engines.onnxruntime.rewrite import CONTRIBUTED, use_flash_attention

# ONNX Runtime's provider option `sdpa_kernel` is a set of bits; this one is cuDNN's flash attention.
CUDNN = {"sdpa_kernel": "8"}


def standard(model: ir.Model, dtype: ir.DataType) -> None:
    """The exported graph as it is."""


def multi_head(model: ir.Model, dtype: ir.DataType) -> None:
    """ONNX Runtime's own attention operator."""
    use_flash_attention(model)


def own_rotary(model: ir.Model, dtype: ir.DataType) -> None:
    """ONNX Runtime's own attention and rotary embedding, which takes its angles by position."""
    use_flash_attention(model)
    nodes = [node for node in model.graph if node.op_type == "RotaryEmbedding" and node.domain == ""]
    cos, sin = nodes[0].inputs[1:3]
    # Angles of one frame, [P, head_dim / 2], and of every frame the positions 0 to P - 1.
    before: list[ir.Node] = []

    def op(op_type: str, *inputs: ir.Value, **attributes) -> ir.Value:
        before.append(ir.node(op_type, inputs, attributes, outputs=[ir.val(f"angles_{len(before)}")]))
        return before[-1].outputs[0]

    def integers(*values: int) -> ir.Value:
        return op("Constant", value=ir.tensor(list(values), dtype=ir.DataType.INT64))

    def scalar(number: int) -> ir.Value:
        return op("Constant", value=ir.tensor(number, dtype=ir.DataType.INT64))

    tables = [op("Gather", x, scalar(0), axis=0) for x in (cos, sin)]
    shape = op("Shape", cos, start=0, end=2)
    count = op("Gather", shape, scalar(1), axis=0)
    positions = op("Expand", op("Unsqueeze", op("Range", scalar(0), count, scalar(1)), integers(0)), shape)
    model.graph.insert_before(nodes[0], before)
    for node in nodes:
        replacement = ir.node(
            "RotaryEmbedding", [node.inputs[0], positions, *tables],
            {"num_heads": node.attributes["num_heads"].as_int(), "interleaved": 0}, domain=CONTRIBUTED, name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [replacement], node.outputs,
                                                replacement.outputs)


VARIANTS: dict[str, tuple[Callable[[ir.Model, ir.DataType], None], dict[str, str]]] = {
    "MultiHeadAttention": (multi_head, {}),
    "MultiHeadAttention cuDNN": (multi_head, CUDNN),
    "own rotary cuDNN": (own_rotary, CUDNN),
    "Attention": (standard, {}),
    "Attention cuDNN": (standard, CUDNN),
}
