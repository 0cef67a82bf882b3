"""DeepStack's plain operations are a network that TensorRT builds: types, shapes and sizes known only later.

TensorRT for RTX builds without a GPU. It stands for TensorRT, whose network layers it shares; the functions that
TensorRT-LLM makes of them are written here from what its functional.py says they insert.
"""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import tensorrt_rtx as trt

from engines.tensorrt.messages import message_log
from engines.trtllm.deepstack import PromptTable
from tests.engines.trtllm.signature_table import signature, table

HIDDEN, VOCAB = 64, 301
TYPES = {"bfloat16": trt.bfloat16, "float16": trt.float16}


class Functional:
    """The functions of `tensorrt_llm.functional` that DeepStack uses, on a network of TensorRT for RTX."""

    def __init__(self, network: trt.INetworkDefinition) -> None:
        self.network, self.arrays = network, []

    def constant(self, value: int) -> trt.ITensor:
        self.arrays.append(np.array([value], np.int32))  # the network only refers to it
        return self.network.add_constant((1,), trt.Weights(self.arrays[-1])).get_output(0)

    def wrap(self, layer: trt.ILayer) -> Wrapped:
        assert layer is not None
        return Wrapped(self, layer.get_output(0))

    def shape(self, input: Wrapped) -> Wrapped:
        return self.wrap(self.network.add_shape(input.trt_tensor))

    def unsqueeze(self, input: Wrapped, axis: int) -> Wrapped:
        layer = self.network.add_shuffle(input.trt_tensor)
        layer.reshape_dims = (-1, 1)
        assert axis == -1 and len(input.trt_tensor.shape) == 1
        return self.wrap(layer)

    def expand(self, input: Wrapped, expand_shape: Wrapped) -> Wrapped:
        """A slice of the wanted size whose stride is 0 where there is one element."""
        rank = len(input.trt_tensor.shape)
        layer = self.network.add_slice(input.trt_tensor, [0] * rank, [0] * rank, [1] * rank)
        one = self.network.add_cast(self.constant(1), trt.int64).get_output(0)
        length = self.network.add_shape(input.trt_tensor).get_output(0)
        longer = self.network.add_elementwise(length, one, trt.ElementWiseOperation.GREATER).get_output(0)
        layer.set_input(2, expand_shape.trt_tensor)
        layer.set_input(3, self.network.add_cast(longer, trt.int64).get_output(0))
        return self.wrap(layer)

    def where(self, condition: Wrapped, left: Wrapped, right: Wrapped | int) -> Wrapped:
        right = self.constant(right) if isinstance(right, int) else right.trt_tensor
        return self.wrap(self.network.add_select(condition.trt_tensor, left.trt_tensor, right))

    def embedding(self, input: Wrapped, weight: Wrapped) -> Wrapped:
        return self.wrap(self.network.add_gather(weight.trt_tensor, input.trt_tensor, 0))


class Wrapped:
    def __init__(self, functional: Functional, trt_tensor: trt.ITensor) -> None:
        self.functional, self.trt_tensor = functional, trt_tensor

    def _with(self, other: Wrapped | int, operation: trt.ElementWiseOperation) -> Wrapped:
        other = self.functional.constant(other) if isinstance(other, int) else other.trt_tensor
        return self.functional.wrap(self.functional.network.add_elementwise(self.trt_tensor, other, operation))

    def __add__(self, other: Wrapped | int) -> Wrapped:
        return self._with(other, trt.ElementWiseOperation.SUM)

    def __sub__(self, other: Wrapped | int) -> Wrapped:
        return self._with(other, trt.ElementWiseOperation.SUB)

    def __mul__(self, other: Wrapped | int) -> Wrapped:
        return self._with(other, trt.ElementWiseOperation.PROD)

    def __gt__(self, other: Wrapped | int) -> Wrapped:
        return self._with(other, trt.ElementWiseOperation.GREATER)


@pytest.mark.parametrize("dtype", list(TYPES))
def test_tensorrt_builds_them_in_a_strongly_typed_network(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    plan, errors = build(monkeypatch, TYPES[dtype], TYPES[dtype])
    assert plan is not None, errors


def test_rows_of_another_type_than_the_hidden_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, errors = build(monkeypatch, trt.bfloat16, trt.float32)
    assert plan is None and errors


def build(monkeypatch: pytest.MonkeyPatch, dtype: trt.DataType,
          row_dtype: trt.DataType) -> tuple[trt.IHostMemory | None, list[str]]:
    """Three levels added to hidden states; an engine or TensorRT's errors."""
    log = message_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    functional = Functional(network)
    module = ModuleType("tensorrt_llm.functional")
    for name in ("shape", "unsqueeze", "expand", "where", "embedding"):
        setattr(module, name, getattr(functional, name))
    monkeypatch.setitem(sys.modules, "tensorrt_llm", ModuleType("tensorrt_llm"))
    monkeypatch.setitem(sys.modules, "tensorrt_llm.functional", module)

    def add_input(name: str, dtype, *shape: int) -> Wrapped:
        return Wrapped(functional, network.add_input(name, dtype, shape))

    hidden = add_input("hidden", dtype, -1, HIDDEN)
    prompt_table = PromptTable.of_batch(
        add_input("input_ids", trt.int32, -1), add_input("rows", row_dtype, -1, HIDDEN),
        add_input("tasks", trt.int32, -1), add_input("task_vocab_size", trt.int32, 1), vocab_size=VOCAB, plugin=False)
    for level in (1, 2, 3):
        hidden = prompt_table.add_level(hidden, level)
    network.mark_output(hidden.trt_tensor)

    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    for name, shapes in {"hidden": [(1, HIDDEN), (32, HIDDEN), (64, HIDDEN)], "input_ids": [(1,), (32,), (64,)],
                         "tasks": [(1,), (32,), (64,)], "rows": [(1, HIDDEN), (64, HIDDEN), (128, HIDDEN)]}.items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is not None:
        assert hidden.trt_tensor.dtype == dtype and tuple(hidden.trt_tensor.shape) == (-1, HIDDEN)
    return plan, list(log.errors)


@pytest.mark.parametrize("name", [
    "tensorrt.IPluginRegistry.get_creator", "tensorrt.IPluginCreatorV3One.create_plugin", "tensorrt.PluginField",
    "tensorrt.PluginFieldCollection", "tensorrt.ILayer.get_output", "tensorrt.get_plugin_registry"])
def test_the_signature_table_says_what_tensorrt_s_own_documentation_says(name: str) -> None:
    thing = trt
    for part in name.split(".")[1:]:
        thing = getattr(thing, part)
    documented = (getattr(thing, "__init__", thing) if isinstance(thing, type) else thing).__doc__
    parameters = list(signature(table().find(name).call).parameters)
    overloads = [line for line in documented.splitlines() if "(self:" in line or "get_plugin_registry()" in line]
    assert any([parameter for parameter in parameters if f"{parameter}: " not in line] == [] for line in overloads)
