"""The vision encoder's graph for ONNX Runtime's CUDA provider: fewer passes over the activations.

A linear layer's bias, the residual sum and the normalisation after it become one kernel, its bias and activation
another. With the library of plugins/vision_kernels, all between the two linear layers of an attention is one operator.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from engines.onnxruntime.rewrite import CONTRIBUTED, use_flash_attention
from plugins.vision_kernels.operators import ADD_POSITIONS, BIAS_GELU, DOMAIN, VERSION, VISION_ATTENTION


def fuse_for_cuda(model: ir.Model, *, kernels: bool) -> None:
    """Rewrite the exported vision encoder in place.

    Args:
        kernels: whether sessions will have the operators of plugins/vision_kernels; otherwise only ONNX Runtime's own
            are used.

    Raises:
        ValueError: the graph is not the exported one.
    """
    fuse_activations(model, kernels=kernels)
    fuse_residuals(model)
    if kernels:
        fuse_attention(model)
        fuse_positions(model)
        model.graph.opset_imports[DOMAIN] = VERSION
    else:
        use_flash_attention(model)
    model.graph.opset_imports[CONTRIBUTED] = 1
    RemoveUnusedNodesPass()(model)


def fuse_activations(model: ir.Model, *, kernels: bool) -> int:
    """`gelu(x + bias)` to one operator. Returns how many."""
    tanh_form = (DOMAIN, BIAS_GELU) if kernels else (CONTRIBUTED, "FastGelu")
    nodes = _nodes(model, "Gelu")
    for node in nodes:
        is_tanh = "approximate" in node.attributes and node.attributes["approximate"].as_string() == "tanh"
        domain, op_type = tanh_form if is_tanh else (CONTRIBUTED, "BiasGelu")
        _replace(model, node, ir.node(op_type, _with_bias(node.inputs[0]), domain=domain, name=node.name))
    return len(nodes)


def fuse_residuals(model: ir.Model) -> int:
    """`hidden + (x + bias)` and its normalisation to `SkipLayerNormalization`, which gives the sum too.

    Returns how many.
    """
    count = 0
    for node in _nodes(model, "LayerNormalization"):
        total, scale, shift = node.inputs
        residual = total.producer()
        if residual is None or residual.op_type != "Add" or not _is_biased(residual.inputs[1]):
            continue
        product, bias = _with_bias(residual.inputs[1])
        outputs = [ir.val(node.outputs[0].name), ir.val(""), ir.val(""), ir.val(total.name)]
        fused = ir.node("SkipLayerNormalization", [product, residual.inputs[0], scale, shift, bias],
                        {"epsilon": node.attributes["epsilon"].as_float()}, domain=CONTRIBUTED, name=node.name,
                        outputs=outputs)
        # Where the sum was: a merger may read it before the normalisation does.
        model.graph.insert_before(residual, fused)
        ir.convenience.replace_all_uses_with([node.outputs[0], total], [outputs[0], outputs[3]])
        model.graph.remove([node, residual], safe=True)
        count += 1
    return count


def fuse_attention(model: ir.Model) -> int:
    """Bias, split, rotary embedding and attention to `VisionAttention`, whose angles are float32. Returns how many."""
    nodes = _nodes(model, "Attention")
    tables: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        turned = node.inputs[0].producer()
        if turned.op_type != "RotaryEmbedding":
            raise ValueError(f"node {node.name} is not attention over rotated queries")
        product, bias = _with_bias(turned.inputs[0].producer().inputs[0])
        angles = [_angles(model, value, tables) for value in turned.inputs[1:3]]
        heads = node.attributes["q_num_heads"].as_int()
        _replace(model, node, ir.node(VISION_ATTENTION, [product, bias, *angles], {"num_heads": heads}, domain=DOMAIN,
                                      name=node.name))
    return len(nodes)


def fuse_positions(model: ir.Model) -> int:
    """The patch embedding's bias and the interpolated positions to `AddPositions`. Returns how many."""
    nodes = [node for node in _nodes(model, "Add")
             if (total := node.inputs[1].producer()) is not None and total.op_type == "ReduceSum"]
    for node in nodes:
        corners, shares = node.inputs[1].producer().inputs[0].producer().inputs
        table, indices = corners.producer().inputs
        weights = shares
        while weights.producer() is not None:  # the graph's input, before it is cast and reshaped
            weights = weights.producer().inputs[0]
        _replace(model, node, ir.node(ADD_POSITIONS, [*_with_bias(node.inputs[0]), table, indices, weights],
                                      domain=DOMAIN, name=node.name))
    return len(nodes)


def _nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == op_type and node.domain == ""]


def _is_biased(value: ir.Value) -> bool:
    """Whether it is the output of a linear layer with bias."""
    add = value.producer()
    return (add is not None and add.op_type == "Add" and add.inputs[1].is_initializer()
            and (product := add.inputs[0].producer()) is not None and product.op_type == "MatMul")


def _with_bias(value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The product and the bias of a linear layer's output."""
    if not _is_biased(value):
        raise ValueError(f"{value.name} is not the output of a linear layer with bias")
    return tuple(value.producer().inputs)


def _angles(model: ir.Model, value: ir.Value, known: dict[ir.Value, ir.Value]) -> ir.Value:
    """Cosines or sines as float32 [P, head size / 2], from what the exported graph makes of them for each frame."""
    source = value
    while source.producer().op_type not in ("Cos", "Sin"):
        source = source.producer().inputs[0]
    if source not in known:
        axis = ir.node("Constant", [], {"value": ir.tensor([0], dtype=ir.DataType.INT64)}, name=f"{source.name}.axis")
        squeeze = ir.node("Squeeze", [source, axis.outputs[0]], name=f"{source.name}.patches")
        model.graph.insert_after(source.producer(), [axis, squeeze])
        known[source] = squeeze.outputs[0]
    return known[source]


def _replace(model: ir.Model, node: ir.Node, fused: ir.Node) -> None:
    """Put a node with one output in the place of another."""
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], [fused], node.outputs, fused.outputs)
