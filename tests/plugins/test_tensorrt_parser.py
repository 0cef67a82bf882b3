"""What TensorRT's ONNX parser makes of DeepstackAdd: the real one, of TensorRT-RTX, which needs no GPU to parse."""

from pathlib import Path

from plugins.deepstack_add.tensorrt_graph import require_plugin
from tests.plugins.models import one_node_model
from tests.plugins.parsing import parse


def test_function_is_expanded_where_no_plugin_is_loaded(tmp_path: Path, library_folder: Path) -> None:
    result = parse(one_node_model(), tmp_path, library_folder, "--build")
    assert result["parsed"] and "GATHER" in result["layers"] and "PLUGIN_V3" not in result["layers"]
    assert result["engine_bytes"] > 0


def test_plugin_is_taken_for_the_same_file_where_it_is_loaded(tmp_path: Path, library_folder: Path) -> None:
    result = parse(one_node_model(level=3, vocab_size=151936), tmp_path, library_folder, "--python-plugin")
    assert result["parsed"] and result["layers"] == ["PLUGIN_V3"]
    assert result["fields"] == {"level": 3, "vocab_size": 151936}


def test_function_is_expanded_for_a_node_that_does_not_name_the_plugin(tmp_path: Path, library_folder: Path) -> None:
    model = one_node_model()
    del model.graph.node(0).attributes["plugin_namespace"]
    assert "PLUGIN_V3" not in parse(model, tmp_path, library_folder, "--python-plugin")["layers"]


def test_required_plugin_that_is_not_loaded_is_an_error(tmp_path: Path, library_folder: Path) -> None:
    model = one_node_model()
    require_plugin(model)
    result = parse(model, tmp_path, library_folder)
    assert not result["parsed"] and "Plugin not found" in result["errors"][0]
    assert parse(model, tmp_path, library_folder, "--python-plugin")["layers"] == ["PLUGIN_V3"]
