"""The network that is being defined, or run: the default one of its thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.engines.trtllm.stand_in.communicator import Communicator
from tests.engines.trtllm.stand_in.tensorrt import INetworkDefinition
from tests.engines.trtllm.stand_in.tensors import Tensor


class PluginConfig:
    """Knows the settings that the build makes, with TensorRT-LLM's defaults; "auto" is the model's type."""

    def __init__(self) -> None:
        self.dtype = "float16"
        self.remove_input_padding = True
        self.paged_kv_cache = None
        self.use_paged_context_fmha = True
        self.gpt_attention_plugin = self.moe_plugin = "auto"
        self.gemm_plugin = None
        self._sealed = True

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_sealed", False) and not hasattr(self, name):
            raise ValueError(f"PluginConfig has no field {name}")
        super().__setattr__(name, value)


class Network:
    """Attributes: `inputs` by name; `outputs`, values by name; `caches`, keys and values by (request, layer)."""

    def __init__(self, plugin_config: PluginConfig) -> None:
        self.plugin_config = plugin_config
        self.trt_network = INetworkDefinition()
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self.requests: list[object] = []
        self.caches: dict[tuple[object, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self.communicator: Communicator | None = None


_current = threading.local()


def default_net() -> Network:
    assert getattr(_current, "network", None) is not None, "no network: `net_guard` sets one"
    return _current.network


def default_trtnet() -> INetworkDefinition:
    return default_net().trt_network


@contextmanager
def net_guard(network: Network) -> Iterator[None]:
    before, _current.network = getattr(_current, "network", None), network
    try:
        yield
    finally:
        _current.network = before
