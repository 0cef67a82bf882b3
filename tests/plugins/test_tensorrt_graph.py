"""Making a graph insist on the plugin."""

import onnx_ir as ir
import pytest

from plugins.deepstack_add.tensorrt_graph import require_plugin
from qwen3vl.errors import ArtifactError
from tests.plugins.models import one_node_model


def test_drops_the_function_and_keeps_the_node() -> None:
    model = one_node_model(level=3, vocab_size=100)
    require_plugin(model)
    proto = ir.to_proto(model)
    assert not proto.functions
    assert [(node.domain, node.op_type) for node in proto.graph.node] == [("qwen3vl", "DeepstackAdd")]
    assert {name: attribute.value for name, attribute in model.graph.node(0).attributes.items()} == {
        "level": 3, "vocab_size": 100, "plugin_namespace": "qwen3vl", "plugin_version": "1"}


def test_names_the_plugin_on_nodes_that_do_not() -> None:
    model = one_node_model()
    for name in ("plugin_namespace", "plugin_version"):
        del model.graph.node(0).attributes[name]
    require_plugin(model)
    assert model.graph.node(0).attributes["plugin_namespace"].value == "qwen3vl"
    assert model.graph.node(0).attributes["plugin_version"].value == "1"


@pytest.mark.parametrize("in_place", [False, True])
def test_asks_for_writing_in_place_only_when_told(in_place: bool) -> None:
    model = one_node_model()
    require_plugin(model, in_place=in_place)
    attribute = model.graph.node(0).attributes.get("in_place")
    assert (attribute.value == 1) if in_place else attribute is None


def test_refuses_a_model_without_the_operator() -> None:
    model = one_node_model()
    model.graph.remove(model.graph.node(0))
    with pytest.raises(ArtifactError, match=r"no qwen3vl\.DeepstackAdd node"):
        require_plugin(model)
