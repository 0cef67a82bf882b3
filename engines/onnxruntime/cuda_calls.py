"""What all calls of a decoder's session on a device share: its memory, its cache, and how inputs are bound."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime

from engines.onnxruntime.cuda_cache import DeviceCache
from engines.onnxruntime.cuda_inputs import DeviceArray, Table, VisualTables
from engines.onnxruntime.device_memory import DeviceMemory
from engines.onnxruntime.device_work import DeviceWork

INT32, FLOAT = np.int32, np.float32


@dataclass(frozen=True)
class DecoderCalls:
    session: onnxruntime.InferenceSession
    memory: DeviceMemory
    work: DeviceWork
    cache: DeviceCache
    tables: VisualTables
    hidden_size: int

    def bind_inputs(self, binding: onnxruntime.IOBinding, arrays: Mapping[str, DeviceArray], longest: np.ndarray,
                    table: Table | None = None) -> None:
        """Bind all inputs but the cache.

        Args:
            arrays: by their names; those that the graph has no input for are left out.
            longest: int32 [], which the graph reads in the host's memory.
            table: of visual rows, by default one without any.
        """
        device, table = self.memory.device, table or self.tables.empty
        for name, array in arrays.items():
            if name in self.inputs:
                binding.bind_input(name, device, 0, array.dtype, array.shape, array.address)
        binding.bind_input("max_total_length", "cpu", 0, INT32, (), longest.ctypes.data)
        binding.bind_input("visual_rows", device, 0, FLOAT, (table.rows, self.hidden_size), table.address)

    @functools.cached_property
    def inputs(self) -> frozenset[str]:
        """Names of the graph's inputs."""
        return frozenset(item.name for item in self.session.get_inputs())
