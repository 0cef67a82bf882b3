"""The slotted key-value cache in a device's memory."""

from __future__ import annotations

import math

import onnxruntime

from engines.onnxruntime.cuda_record import CudaDecoderRecord
from engines.onnxruntime.device_memory import DeviceMemory
from engines.onnxruntime.device_work import DeviceWork
from qwen3vl.config import TextConfig


class DeviceCache:
    """Keys and values of each layer, [slots, kv_heads, capacity, head_dim], zeros at first.

    Args:
        capacity: tokens that fit one slot.
    """

    def __init__(self, memory: DeviceMemory, work: DeviceWork, record: CudaDecoderRecord, text: TextConfig, slots: int,
                 capacity: int):
        self._work, self._device, self._onnx_type = work, memory.device, record.onnx_type
        self._slot_shape = (text.num_key_value_heads, capacity, text.head_dim)
        self._token_bytes = text.head_dim * record.element_bytes
        self._slot_bytes = math.prod(self._slot_shape) * record.element_bytes
        self._addresses = {f"{part}.{layer}": memory.allocate(slots * self._slot_bytes)
                           for layer in range(text.num_hidden_layers) for part in ("key", "value")}

    def bind(self, binding: onnxruntime.IOBinding, first: int, count: int) -> None:
        """Make `count` slots from `first` on the past and, in the same memory, the present."""
        for name, address in self._addresses.items():
            tensor = (self._device, 0, self._onnx_type, (count, *self._slot_shape),
                      address + first * self._slot_bytes)
            binding.bind_input(f"past_{name}", *tensor)
            binding.bind_output(f"present_{name}", *tensor)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another, once all that was computed before is there."""
        heads, capacity, _ = self._slot_shape
        for address in self._addresses.values():
            self._work.copy_rows(address + target * self._slot_bytes, address + source * self._slot_bytes,
                                 length * self._token_bytes, capacity * self._token_bytes, heads)
