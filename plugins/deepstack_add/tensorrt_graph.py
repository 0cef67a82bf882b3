"""Making a graph insist on the TensorRT plugin."""

from __future__ import annotations

import onnx_ir as ir

from plugins.deepstack_add.onnx_function import PLUGIN_ATTRIBUTES
from plugins.deepstack_add.operator import DOMAIN, NAME
from qwen3vl.errors import ArtifactError


def require_plugin(model: ir.Model, *, in_place: bool = False) -> None:
    """Change a model, in memory, so that TensorRT runs every DeepstackAdd as the plugin or refuses the model.

    The exported file needs no change for TensorRT: its parser takes the plugin where that is loaded, and else expands
    the function, without a word. Without the function, a plugin that is not loaded is the parser's error.

    Args:
        model: a model with DeepstackAdd nodes. Those of older files, without the plugin's attributes, get them.
        in_place: let the plugin write its output over `hidden`. The build must then turn TensorRT's preview feature
            ALIASED_PLUGIN_IO_10_03 on, or it fails.

    Raises:
        ArtifactError: the model has no DeepstackAdd node.
    """
    nodes = [node for node in model.graph.all_nodes() if (node.domain, node.op_type) == (DOMAIN, NAME)]
    if not nodes:
        raise ArtifactError(f"model {model.graph.name!r} has no {DOMAIN}.{NAME} node, so no plugin can run in it; "
                            "expected the decoder's graph, build/<name>/onnx/decoder.onnx")
    for node in nodes:
        for name, text in PLUGIN_ATTRIBUTES.items():
            node.attributes[name] = ir.AttrString(name, text)
        if in_place:
            node.attributes["in_place"] = ir.AttrInt64("in_place", 1)
    for key in [key for key in model.functions if key[:2] == (DOMAIN, NAME)]:
        del model.functions[key]
