"""The part of TensorRT that puts the DeepstackAdd plugin into a network, and that plugin in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import torch

from plugins.deepstack_add.operator import NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION, deepstack_add

__version__ = "10.13.3.9"


class DataType(Enum):
    FLOAT = auto()
    HALF = auto()
    BF16 = auto()
    INT32 = auto()
    INT64 = auto()
    BOOL = auto()


class PluginFieldType(Enum):
    INT32 = auto()
    FLOAT32 = auto()


class TensorRTPhase(Enum):
    BUILD = auto()
    RUNTIME = auto()


class ITensor:
    """`value` is there only while the network runs."""

    def __init__(self, dtype: DataType, value: torch.Tensor | None, name: str | None = None, shape=None) -> None:
        self.dtype, self.value, self.name, self.shape = dtype, value, name, shape


class ILayer:
    def __init__(self, outputs: list[ITensor]) -> None:
        self._outputs = outputs

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


@dataclass(frozen=True)
class PluginField:
    name: str
    data: np.ndarray
    type: PluginFieldType


class PluginFieldCollection(list):
    pass


class DeepstackAddPlugin:
    """What csrc/plugin.cpp does with types and shapes, and what its kernel computes."""

    def __init__(self, level: int, vocab_size: int) -> None:
        self.level, self.vocab_size = level, vocab_size

    def run(self, hidden: ITensor, token_ids: ITensor, visual_rows: ITensor) -> ITensor:
        assert hidden.dtype in (DataType.FLOAT, DataType.HALF, DataType.BF16), "supportsFormatCombination: hidden"
        assert token_ids.dtype is DataType.INT32, "supportsFormatCombination: token_ids"
        assert visual_rows.dtype is hidden.dtype, "supportsFormatCombination: visual_rows"
        assert hidden.value.shape[:-1] == token_ids.value.shape and visual_rows.value.ndim == 2, "onShapeChange"
        assert visual_rows.value.shape[1] == hidden.value.shape[-1], "onShapeChange"
        out = deepstack_add(hidden.value.numpy(), token_ids.value.numpy(), visual_rows.value.numpy(), level=self.level,
                            vocab_size=self.vocab_size)
        return ITensor(hidden.dtype, torch.from_numpy(out))


class DeepstackAddCreator:
    def create_plugin(self, name: str, field_collection: PluginFieldCollection, phase: TensorRTPhase):
        """None, as the creator in csrc/plugin.cpp, for fields that are not known, no int32 or out of range."""
        fields = {}
        for field in field_collection:
            if field.name not in ("level", "vocab_size", "in_place") or field.type is not PluginFieldType.INT32 \
                    or field.data.dtype != np.int32 or field.data.size != 1:
                return None
            fields[field.name] = int(field.data[0])
        if fields.get("level", -1) < 0 or fields.get("vocab_size", 0) < 1 or phase is not TensorRTPhase.BUILD:
            return None
        return DeepstackAddPlugin(fields["level"], fields["vocab_size"])


class IPluginRegistry:
    def __init__(self) -> None:
        self.creators = {}

    def get_creator(self, type: str, version: str, plugin_namespace: str = ""):
        return self.creators.get((type, version, plugin_namespace))


REGISTRY = IPluginRegistry()


def register_deepstack_add() -> None:
    """What loading the plugin's library does."""
    REGISTRY.creators[NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE] = DeepstackAddCreator()


def get_plugin_registry() -> IPluginRegistry:
    return REGISTRY


class INetworkDefinition:
    def add_plugin_v3(self, inputs: list[ITensor], shape_inputs: list[ITensor], plugin: DeepstackAddPlugin) -> ILayer:
        assert all(isinstance(tensor, ITensor) for tensor in inputs) and shape_inputs == []
        self.plugins = [*getattr(self, "plugins", ()), plugin]
        return ILayer([plugin.run(*inputs)])
