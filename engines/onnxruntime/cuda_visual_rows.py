"""Visual rows in the decoder's graph for a GPU: read from a table that has its rows of zeros already.

The operator's portable function looks at the table's size and puts a row of zeros in front of it, each time. The first
is computed on the host, from where a CUDA graph cannot take it; the second copies the table. Here the table comes with
as many rows of zeros in front as a visual token has rows. Ids of words go to these, whatever the level.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from plugins.deepstack_add.operator import NAME as DEEPSTACK_ADD

TABLE = "visual_rows"


def read_padded_rows(model: ir.Model, rows_per_token: int) -> int:
    """Rewrite every `DeepstackAdd` of the exported decoder. Returns how many.

    `visual_rows` becomes float32 [rows_per_token + R, H], the first `rows_per_token` rows zeros. What ids the table
    does not have read is not defined: `engines.batching.admission` refuses them.

    Raises:
        ValueError: the graph is not the exported one.
    """
    nodes = [node for node in model.graph if node.op_type == DEEPSTACK_ADD]
    if len(nodes) != rows_per_token:
        raise ValueError(f"the graph adds visual rows {len(nodes)} times, expected {rows_per_token}")
    table = take_wide_rows(model)
    constants = _Constants(model)
    first = nodes[0]
    embedded, token_ids, _ = first.inputs
    vocab_size = first.attributes["vocab_size"].as_int()

    # embedded = where(ordinary, word, 0); a product has kernels for every type, and a word's row is finite.
    chosen = embedded.producer()
    if chosen is None or chosen.op_type != "Where":
        raise ValueError(f"{embedded.name} is not the embedding of words")
    ordinary = chosen.inputs[0].producer().inputs[0]  # [B, S], before it gets a last axis
    mask = ir.node("CastLike", [chosen.inputs[0], chosen.inputs[1]], name="ordinary.mask")
    masked = ir.node("Mul", [chosen.inputs[1], mask.outputs[0]], name="embedding.masked")
    model.graph.insert_before(chosen, [mask, masked])
    ir.convenience.replace_all_uses_with(embedded, masked.outputs[0])
    model.graph.remove(chosen, safe=True)

    # row = where(ordinary, 0, id - vocab_size + rows_per_token): a token's first, at level 0.
    offset = ir.node("Sub", [token_ids, constants.integer(vocab_size - rows_per_token)], name="visual.offset")
    row = ir.node("Where", [ordinary, constants.integer(0), offset.outputs[0]], name="visual.row")
    model.graph.insert_before(first, [offset, row])
    for node in nodes:
        _read(model, node, table, row.outputs[0], constants)
    return len(nodes)


def take_wide_rows(model: ir.Model) -> ir.Value:
    """Make `visual_rows` float32, and drop the portable function, which takes no other type than the activations'.

    Returns:
        The graph's input.
    """
    table = next(value for value in model.graph.inputs if value.name == TABLE)
    table.dtype = ir.DataType.FLOAT
    for key in [key for key in model.functions if key[1] == DEEPSTACK_ADD]:
        del model.functions[key]
    return table


def _read(model: ir.Model, node: ir.Node, table: ir.Value, row: ir.Value, constants: _Constants) -> None:
    level, name = node.attributes["level"].as_int(), node.name
    index = ir.node("Add", [row, constants.integer(level)], name=f"{name}.row")
    rows = ir.node("Gather", [table, index.outputs[0]], {"axis": 0}, name=f"{name}.rows")
    like = ir.node("CastLike", [rows.outputs[0], node.inputs[0]], name=f"{name}.cast")
    total = ir.node("Add", [node.inputs[0], like.outputs[0]], name=name)
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], [index, rows, like, total], node.outputs,
                                            total.outputs)


class _Constants:
    """Whole numbers of the graph, int32 []."""

    def __init__(self, model: ir.Model):
        self._graph = model.graph

    def integer(self, number: int) -> ir.Value:
        name = f"visual.int32.{number}"
        if name not in self._graph.initializers:
            tensor = ir.Tensor(np.array(number, np.int32), name=name)
            self._graph.register_initializer(ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype),
                                                      const_value=tensor))
        return self._graph.initializers[name]
