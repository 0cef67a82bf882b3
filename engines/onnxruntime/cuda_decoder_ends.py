"""What surrounds the decoder's layers, in the operators of plugins/decoder_kernels: fewer kernels, each of one step.

Embedding, DeepStack levels and angles were 30 nodes. The most likely tokens are outputs of the graph.
"""

from __future__ import annotations

import onnx_ir as ir

from engines.onnxruntime.cuda_record import BEST, CANDIDATES, IDS
from export.graph import value
from plugins.decoder_kernels.operators import DOMAIN, EMBED_TOKENS, ROTARY_ANGLES, TOP_LOGITS
from plugins.deepstack_add.operator import NAME as DEEPSTACK_ADD

TABLE = "visual_rows"


def use_input_kernels(model: ir.Model) -> None:
    """Rewrite the exported decoder up to its first layer, in place. `visual_rows` becomes float32 [R, H].

    Raises:
        ValueError: the graph is not the exported one.
    """
    _embed(model)
    _turn(model)
    next(x for x in model.graph.inputs if x.name == TABLE).dtype = ir.DataType.FLOAT
    for key in [key for key in model.functions if key[1] == DEEPSTACK_ADD]:  # its kernel comes with the others
        del model.functions[key]


def put_out_candidates(model: ir.Model, vocab_size: int) -> None:
    """Add the outputs `best`, float32 [logit_count, K], and `ids`, int64: the K largest logits, the largest first."""
    logits, size = model.graph.outputs[0], min(CANDIDATES, vocab_size)
    outputs = [value(name, dtype, [logits.shape[0], size])
               for name, dtype in ((BEST, ir.DataType.FLOAT), (IDS, ir.DataType.INT64))]
    model.graph.append(ir.node(TOP_LOGITS, [logits], {"k": size}, domain=DOMAIN, outputs=outputs, name=TOP_LOGITS))
    model.graph.outputs.extend(outputs)


def _embed(model: ir.Model) -> None:
    first = next(node for node in model.graph if node.op_type == DEEPSTACK_ADD)
    words, token_ids, _ = first.inputs
    chosen = words.producer()
    if chosen is None or chosen.op_type != "Where" or chosen.inputs[1].producer().op_type != "Gather":
        raise ValueError(f"{words.name} is not the embedding of words")
    table = chosen.inputs[1].producer().inputs[0]
    embedded = ir.node(EMBED_TOKENS, [token_ids, table], domain=DOMAIN, name=EMBED_TOKENS)
    model.graph.insert_before(first, embedded)
    ir.convenience.replace_all_uses_with(words, embedded.outputs[0])


def _turn(model: ir.Model) -> None:
    cosines, sines = (next(node for node in model.graph if node.op_type == kind) for kind in ("Cos", "Sin"))
    product = cosines.inputs[0].producer()
    if product.op_type != "Mul" or sines.inputs[0].producer() is not product:
        raise ValueError(f"{cosines.inputs[0].name} is not positions by frequencies, or not that of the sines")
    by_frequency, frequencies = product.inputs
    gathered = by_frequency.producer().inputs[0].producer()
    positions, axes = gathered.inputs
    while positions.producer() is not None:  # the graph's input, before it is cast
        positions = positions.producer().inputs[0]
    angles = ir.node(ROTARY_ANGLES, [positions, axes, frequencies], domain=DOMAIN, num_outputs=2, name=ROTARY_ANGLES)
    model.graph.insert_before(cosines, angles)
    ir.convenience.replace_all_uses_with([cosines.outputs[0], sines.outputs[0]], angles.outputs)
