"""The ONNX function, run by ONNX Runtime, against the numpy reference."""

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.deepstack_add.onnx_function import PLUGIN_ATTRIBUTES
from plugins.deepstack_add.operator import ATTRIBUTES, INPUTS, OUTPUT, deepstack_add
from tests.plugins.cases import Case, cases
from tests.plugins.models import one_node_model


@cache
def session(float_type: type, id_type: type, rank: int, level: int, vocab_size: int) -> onnxruntime.InferenceSession:
    model = one_node_model(ir.DataType.from_numpy(np.dtype(float_type)), ir.DataType.from_numpy(np.dtype(id_type)),
                           leading=rank, level=level, vocab_size=vocab_size)
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("id_type", [np.int32, np.int64])
@pytest.mark.parametrize("float_type", [np.float32, np.float16])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_onnx_runtime_gives_the_reference(float_type: type, id_type: type, data: st.DataObject) -> None:
    case: Case = data.draw(cases(float_type, id_type))
    run = session(float_type, id_type, case.token_ids.ndim, case.level, case.vocab_size)
    feeds = dict(zip((argument.name for argument in INPUTS), case.inputs, strict=True))
    out, = run.run([OUTPUT.name], feeds)
    assert out.dtype == float_type
    np.testing.assert_array_equal(out, deepstack_add(*case.inputs, **case.attributes))


def test_model_is_valid_onnx_and_declares_every_attribute_of_its_nodes() -> None:
    model = ir.to_proto(one_node_model(level=2, vocab_size=100))
    onnx.checker.check_model(model, full_check=True)
    function, = model.functions
    declared = {*function.attribute, *(attribute.name for attribute in function.attribute_proto)}
    assert set(function.attribute) == set(ATTRIBUTES)
    assert {attribute.name for attribute in model.graph.node[0].attribute} == declared


def test_node_names_the_plugin_by_which_tensorrt_replaces_the_function() -> None:
    node, = ir.to_proto(one_node_model(level=2, vocab_size=100)).graph.node
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes == {"level": 2, "vocab_size": 100, "plugin_namespace": b"qwen3vl", "plugin_version": b"1"}
    assert (node.domain, node.op_type) == ("qwen3vl", "DeepstackAdd")
    assert PLUGIN_ATTRIBUTES["plugin_namespace"] == node.domain
