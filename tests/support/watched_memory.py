"""Memory that counts its blocks, and rows in it."""

from __future__ import annotations

import numpy as np

from engines.onnxruntime.device_memory import DeviceMemory, HostMemory
from engines.visual_rows import DeviceRows
from qwen3vl.errors import ArtifactError

HIDDEN = 8


class WatchedMemory(HostMemory):
    """Counts blocks, and fails on demand."""

    refuse = ""

    @property
    def blocks(self) -> int:
        return len(self._blocks)

    def allocate(self, size: int) -> int:
        self._may("allocate")
        return super().allocate(size)

    def copy(self, target: int, source: int, size: int) -> None:
        self._may("copy")
        super().copy(target, source, size)

    def _may(self, action: str) -> None:
        if action == self.refuse:
            raise ArtifactError(f"no {action}")


def numbers(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, HIDDEN)).astype(np.float32)


def on_device(memory: DeviceMemory, array: np.ndarray) -> DeviceRows:
    rows = DeviceRows(memory, *array.shape)
    memory.upload(rows.address, array)
    return rows
