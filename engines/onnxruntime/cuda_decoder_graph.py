"""The decoder's graph in the operators of plugins/decoder_kernels: five nodes a layer, and what surrounds them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from engines.onnxruntime.cuda_decoder_ends import put_out_candidates, use_input_kernels
from engines.onnxruntime.decoder_weights import DecoderWeights
from plugins.decoder_kernels.operators import (
    ADD_NORM,
    CACHED_ATTENTION,
    DOMAIN,
    INT4_ROUTED_EXPERTS,
    INT4_ROW_PRODUCT,
    INT4_ROW_PRODUCT_ADD,
    INT8_ROW_LOGITS,
    ROUTED_EXPERTS,
    ROW_LOGITS,
    ROW_PRODUCT,
    ROW_PRODUCT_ADD,
    VERSION,
    WANTED_NORM,
)
from plugins.deepstack_add.operator import NAME as DEEPSTACK_ADD

PRODUCTS = ("MatMul", "MatMulNBits")
# What the kernel for an output projection of 8 bits takes of vocabulary and width; others become the activations' type.
INT8_MULTIPLES = {"N": 16, "K": 64}


def use_decoder_kernels(model: ir.Model) -> int:
    """Rewrite the exported decoder in place. Returns how many layers it has.

    Inputs and outputs stay as they are, but `visual_rows` is float32 whatever the activations are, tokens may be those
    that an earlier step chose (`use_input_kernels`), and the most likely tokens are put out too, and which of them is
    chosen (`put_out_candidates`).

    Weights of 4 bits stay so, and those of 8 bits of the output projection.

    Raises:
        ValueError: the graph is not the exported one, or it has what no operator is for: biases in its attention, a
            layer without experts, weights of 8 bits in layers, rows of 4 bits that the kernels' order is not for.
    """
    layers = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    for attention in layers:
        _rewrite_layer(model, attention)
    _rewrite_head(model)
    use_input_kernels(model)
    put_out_candidates(model, int(model.graph.outputs[0].shape[-1]))
    model.graph.opset_imports[DOMAIN] = VERSION
    RemoveUnusedNodesPass()(model)
    return len(layers)


def _rewrite_layer(model: ir.Model, attention: ir.Node) -> None:
    query, query_norm = _turned(attention.inputs[0])
    _, key_norm = _turned(attention.inputs[1])
    qkv, turn = query.producer().inputs[0], attention.inputs[0].producer()
    qkv_product = _product(qkv)
    output = _only_user(attention.outputs[0], *PRODUCTS)
    expert_norm = _only_user(output.outputs[0], "SkipSimplifiedLayerNormalization")
    experts = _user(expert_norm.outputs[0], "MoE", "QMoE")
    router = _product(experts.inputs[1].producer().inputs[0])
    update, visual = experts.outputs[0], None
    if (following := next(iter(update.consumers()))).op_type == DEEPSTACK_ADD:
        update, visual = following.outputs[0], following
    epsilon = _epsilon(expert_norm)

    weights = DecoderWeights(model.graph)
    product = _row_product(weights, qkv_product, (ROW_PRODUCT, INT4_ROW_PRODUCT), f"{attention.name}.qkv",
                           qkv_product.inputs[0])
    heads = {name: attention.attributes[name].as_int() for name in ("num_heads", "kv_num_heads")}
    total_lengths = next(value for value in model.graph.inputs if value.name == "total_lengths")
    attended = _node(CACHED_ATTENTION,
                     [product.outputs[0], query_norm.inputs[1], key_norm.inputs[1], *map(_angles, turn.inputs[1:3]),
                      *attention.inputs[3:5], total_lengths],
                     {**heads, "epsilon": query_norm.attributes["epsilon"].as_float(),
                      "scale": attention.attributes["scale"].as_float()}, outputs=3, name=attention.name)
    model.graph.insert_before(attention, product)
    ir.convenience.replace_nodes_and_values(model.graph, attention, [attention], [attended], attention.outputs,
                                            attended.outputs)

    hidden = _row_product(weights, output, (ROW_PRODUCT_ADD, INT4_ROW_PRODUCT_ADD), f"{attention.name}.output",
                          attended.outputs[0], expert_norm.inputs[0])
    wide = experts.op_type == "MoE"
    mixed = _node(ROUTED_EXPERTS if wide else INT4_ROUTED_EXPERTS,
                  [hidden.outputs[0], expert_norm.inputs[2], weights.rows(router),
                   *((experts.inputs[2], experts.inputs[4]) if wide else weights.int4_experts(experts))],
                  {"k": experts.attributes["k"].as_int(), "epsilon": epsilon}, name=experts.name)
    model.graph.insert_after(experts, [hidden, mixed])
    residual, after = hidden.outputs[0], mixed
    if visual is not None:  # added to the residual instead of to the experts' outputs: the same sum
        shown = ir.node(visual.op_type, [residual, *visual.inputs[1:]], domain=visual.domain, name=visual.name)
        shown.attributes.update(visual.attributes)
        model.graph.insert_after(mixed, shown)
        residual, after = shown.outputs[0], shown
    _rewrite_next_norm(model, update, residual, mixed.outputs[0], after)


def _rewrite_next_norm(model: ir.Model, update: ir.Value, residual: ir.Value, mixed: ir.Value, after: ir.Node) -> None:
    """The sum and norm at the beginning of the next layer or, there for the wanted rows only, of the head."""
    user = next(iter(update.consumers()))
    if user.op_type == "SkipSimplifiedLayerNormalization":
        added = _node(ADD_NORM, [residual, mixed, user.inputs[2]], {"epsilon": _epsilon(user)}, outputs=2,
                      name=user.name)
        model.graph.insert_after(after, added)
        ir.convenience.replace_all_uses_with([user.outputs[0], user.outputs[3]], added.outputs)
        return
    gather = _only_user(user.outputs[0], "Gather")
    norm = _only_user(gather.outputs[0], "SkipSimplifiedLayerNormalization")
    wanted = _node(WANTED_NORM, [residual, mixed, norm.inputs[2], gather.inputs[1]], {"epsilon": _epsilon(norm)},
                   name=norm.name)
    model.graph.insert_after(after, wanted)
    ir.convenience.replace_all_uses_with([norm.outputs[0]], wanted.outputs)


def _rewrite_head(model: ir.Model) -> None:
    last = model.graph.outputs[0].producer()  # the product itself, or where it is not in float32 the cast behind it
    product = _product(last.inputs[0] if last.op_type == "Cast" else last.outputs[0])
    weights = DecoderWeights(model.graph)
    by_codes = product.op_type == "MatMulNBits" and product.attributes["bits"].as_int() == 8 and all(
        product.attributes[name].as_int() % multiple == 0 for name, multiple in INT8_MULTIPLES.items())
    rows = weights.int8_rows(product) if by_codes else [weights.rows(product)]
    logits = _node(INT8_ROW_LOGITS if by_codes else ROW_LOGITS, [product.inputs[0], *rows], name=last.name)
    ir.convenience.replace_nodes_and_values(model.graph, last, [last], [logits], last.outputs, logits.outputs)


def _row_product(weights: DecoderWeights, product: ir.Node, operators: tuple[str, str], name: str, x: ir.Value,
                 *residual: ir.Value) -> ir.Node:
    """The first operator where the product's weights are of the activations' type, the second for those of 4 bits."""
    wide = product.op_type == "MatMul"
    rows = [weights.rows(product)] if wide else weights.int4_rows(product)
    return _node(operators[0 if wide else 1], [x, *rows, *residual], name=name)


def _node(op_type: str, inputs: Sequence[ir.Value], attributes: dict[str, int | float] | None = None, *,
          outputs: int = 1, name: str | None = None) -> ir.Node:
    return ir.node(op_type, inputs, attributes or {}, domain=DOMAIN, num_outputs=outputs, name=name)


def _turned(value: ir.Value) -> tuple[ir.Value, ir.Node]:
    """What a rotated and normalised projection was made of, and its norm's node."""
    turned = value.producer()
    norm = turned.inputs[0].producer().inputs[0].producer() if turned.op_type == "RotaryEmbedding" else turned
    if norm.op_type != "RMSNormalization":
        raise ValueError(f"{value.name} is not a normalised and rotated projection")
    return norm.inputs[0].producer().inputs[0], norm


def _angles(value: ir.Value) -> ir.Value:
    """Cosines or sines as they are before they are rounded to the type of the activations."""
    cast = value.producer()
    return cast.inputs[0] if cast.op_type == "Cast" else value


def _product(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None or node.op_type not in PRODUCTS:
        raise ValueError(f"{value.name} is not the plain product of activations and weights")
    return node


def _user(value: ir.Value, *op_types: str) -> ir.Node:
    found = [node for node in value.consumers() if node.op_type in op_types]
    if len(found) != 1:
        raise ValueError(f"{value.name} goes to {len(found)} nodes {' or '.join(op_types)}, expected one")
    return found[0]


def _only_user(value: ir.Value, *op_types: str) -> ir.Node:
    node = _user(value, *op_types)
    if len(value.consumers()) != 1:
        raise ValueError(f"{value.name} has other users than {' or '.join(op_types)}")
    return node


def _epsilon(node: ir.Node) -> float:
    return node.attributes["epsilon"].as_float()
