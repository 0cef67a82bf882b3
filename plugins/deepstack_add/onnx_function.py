"""DeepstackAdd as an ONNX model-local function: runs in any ONNX engine that lacks a kernel for it.

TensorRT's ONNX parser takes a plugin instead of the function where the node itself names the plugin's namespace
(docs/deepstack-add-plugin.md says since when, and where its source says so), so every node carries that attribute and
one file serves all engines.
"""

from __future__ import annotations

import onnx_ir as ir

from plugins.deepstack_add.operator import (
    ATTRIBUTES,
    DOMAIN,
    INPUTS,
    NAME,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    VERSION,
)
from plugins.function_body import FunctionBody, onnx_function

# What TensorRT's parser looks for on a node; part of the function's signature, unused in its body.
PLUGIN_ATTRIBUTES = {"plugin_namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION}


def deepstack_add_function(opset: int) -> ir.Function:
    """The function's body in standard operators of the given opset.

    Inputs: `hidden` float [..., H], `token_ids` int32 or int64 [...], `visual_rows` float [R, H].
    Attributes: `level`, `vocab_size` (integers). Output: `out`, like `hidden`.

    A row of zeros in front of the table serves every token that is not visual: Gather stays in range for an
    empty table, and no unused row, whatever it holds, can reach the sum.
    """
    return onnx_function(DOMAIN, NAME, [argument.name for argument in INPUTS], _body, opset,
                         dict.fromkeys(ATTRIBUTES, ir.AttributeType.INT), PLUGIN_ATTRIBUTES)


def _body(body: FunctionBody, hidden: ir.Value, token_ids: ir.Value, visual_rows: ir.Value) -> ir.Value:
    op = body.op

    def attribute(name: str) -> ir.Value:
        return op("CastLike", op("Constant", of_function={"value_int": name}), token_ids)

    vocab_size, level = attribute("vocab_size"), attribute("level")
    one = op("CastLike", op("Constant", value_int=1), token_ids)
    visual_offset = op("Sub", token_ids, vocab_size)
    row_count = op("CastLike", op("Squeeze", op("Shape", visual_rows, start=0, end=1)), token_ids)
    # `offset + level < rows` in a form whose sums stay within the ids' type for any id.
    known = op("And", op("GreaterOrEqual", token_ids, vocab_size),
               op("Less", visual_offset, op("Sub", row_count, level)))
    index = op("Where", known, op("Add", visual_offset, op("Add", level, one)), op("Sub", one, one))

    width = op("Shape", visual_rows, start=1, end=2)
    zero = op("CastLike", op("Constant", value_float=0.0), visual_rows)
    zero_row = op("Expand", zero, op("Concat", body.integers(1), width, axis=0))
    table = op("Concat", zero_row, visual_rows, axis=0)
    return op("Add", hidden, op("CastLike", op("Gather", table, index, axis=0), hidden))


def deepstack_add_attributes(*, level: int, vocab_size: int) -> dict[str, int | str]:
    """The attributes of one node of the operator, those included by which TensorRT finds the plugin."""
    return {"level": level, "vocab_size": vocab_size, **PLUGIN_ATTRIBUTES}


def deepstack_add_domain() -> dict[str, int]:
    """The opset import that a model using the function declares."""
    return {DOMAIN: VERSION}
