"""What surrounds the decoder's layers, in the operators of plugins/decoder_kernels.

Embedding, angles, the first norm and DeepStack levels were 31 nodes. The most likely tokens are outputs of the graph.
"""

from __future__ import annotations

import onnx_ir as ir

from engines.onnxruntime.cuda_record import BEST, CANDIDATES, CHOSEN, CHOSEN_BEFORE, DRAW_NUMBERS, DRAWS, IDS
from engines.onnxruntime.cuda_visual_rows import take_wide_rows
from export.graph import value
from plugins.decoder_kernels.operators import DOMAIN, INPUT_NORM, STEP_INPUTS, TOP_LOGITS
from plugins.deepstack_add.operator import NAME as DEEPSTACK_ADD


def use_input_kernels(model: ir.Model) -> None:
    """Rewrite the exported decoder up to its first layer, in place. `visual_rows` becomes float32 [R, H].

    A new input, `chosen_before` int64 [C], has the tokens that token ids below 0 stand for: -1 - i for its i-th.

    Raises:
        ValueError: the graph is not the exported one.
    """
    words, token_ids, _ = (first := next(node for node in model.graph if node.op_type == DEEPSTACK_ADD)).inputs
    cosines, sines = (next(node.outputs[0] for node in model.graph if node.op_type == kind) for kind in ("Cos", "Sin"))
    chosen_before = value(CHOSEN_BEFORE, ir.DataType.INT64, ["chosen_count"])
    model.graph.inputs.append(chosen_before)
    inputs = ir.node(STEP_INPUTS, [token_ids, chosen_before, _embedding(words), *_positions(cosines, sines)],
                     domain=DOMAIN, num_outputs=3, name=STEP_INPUTS)
    model.graph.insert_before(first, inputs)
    ir.convenience.replace_all_uses_with([words, cosines, sines], inputs.outputs)
    norm = next(node for node in first.outputs[0].consumers() if node.op_type == "RMSNormalization")
    normed = ir.node(INPUT_NORM, norm.inputs, {"epsilon": norm.attributes["epsilon"].as_float()}, domain=DOMAIN,
                     name=norm.name)
    ir.convenience.replace_nodes_and_values(model.graph, norm, [norm], [normed], norm.outputs, normed.outputs)
    take_wide_rows(model)  # DeepstackAdd's kernel comes with the others


def put_out_candidates(model: ir.Model, vocab_size: int) -> None:
    """Add outputs for each of the rows of logits, and an input.

    `best` float32 [logit_count, K] and `ids` int64: the K largest logits, the largest first. `chosen` int64
    [logit_count]: one of these tokens, as a row of the new input `draws`, float64 [logit_count, 4], says.
    """
    logits, size = model.graph.outputs[0], min(CANDIDATES, vocab_size)
    count = logits.shape[0]
    draws = value(DRAWS, ir.DataType.DOUBLE, [count, DRAW_NUMBERS])
    model.graph.inputs.append(draws)
    outputs = [value(BEST, ir.DataType.FLOAT, [count, size]), value(IDS, ir.DataType.INT64, [count, size]),
               value(CHOSEN, ir.DataType.INT64, [count])]
    model.graph.append(ir.node(TOP_LOGITS, [logits, draws], {"k": size}, domain=DOMAIN, outputs=outputs,
                               name=TOP_LOGITS))
    model.graph.outputs.extend(outputs)


def _embedding(words: ir.Value) -> ir.Value:
    chosen = words.producer()
    if chosen is None or chosen.op_type != "Where" or chosen.inputs[1].producer().op_type != "Gather":
        raise ValueError(f"{words.name} is not the embedding of words")
    return chosen.inputs[1].producer().inputs[0]


def _positions(cosines: ir.Value, sines: ir.Value) -> tuple[ir.Value, ...]:
    """Position ids, axes and frequencies that angles come from."""
    angles = cosines.producer().inputs[0]
    if angles.producer().op_type != "Mul" or sines.producer().inputs[0] is not angles:
        raise ValueError(f"{angles.name} is not positions by frequencies, or not the angles of {sines.name}")
    by_frequency, frequencies = angles.producer().inputs
    positions, axes = by_frequency.producer().inputs[0].producer().inputs
    while positions.producer() is not None:  # the graph's input, before it is cast
        positions = positions.producer().inputs[0]
    return positions, axes, frequencies
