"""The memory that engines work in: a GPU's, or, for the same code on a machine without one, the host's."""

from __future__ import annotations

import ctypes
from typing import Protocol

import numpy as np

from engines.cuda_driver import Gpu


class DeviceMemory(Protocol):
    """Addresses and copies, for any number of threads.

    Everything is done when a method returns, but for `copy`: `finish` waits for that.

    Attributes:
        device: ONNX Runtime's name of the device that the addresses belong to.
    """

    device: str

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of zeros, aligned to 16 bytes at least."""

    def free(self, address: int) -> None: ...

    def host_array(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An array in host memory, kept for as long as the process lives.

        It is copied from and to quickly, and the device can write to it at its address.
        """

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array there."""

    def download(self, array: np.ndarray, address: int) -> None:
        """Fill a contiguous array from there."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes within this memory."""

    def finish(self) -> None:
        """Wait until all copies are done."""


class GpuMemory:
    """Memory of GPU 0."""

    device = "cuda"

    def __init__(self) -> None:
        self._gpu = Gpu()
        self._stream = self._gpu.create_stream()

    def allocate(self, size: int) -> int:
        address = self._gpu.allocate(size)
        self._gpu.clear(address, size, self._stream)
        self.finish()
        return address

    def free(self, address: int) -> None:
        self._gpu.free(address)

    def host_array(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return self._gpu.host_array(shape, dtype)

    def upload(self, address: int, array: np.ndarray) -> None:
        self._gpu.upload(address, array, self._stream)
        self.finish()

    def download(self, array: np.ndarray, address: int) -> None:
        self._gpu.download(array, address, self._stream)
        self.finish()

    def copy(self, target: int, source: int, size: int) -> None:
        self._gpu.copy(target, source, size, self._stream)

    def finish(self) -> None:
        self._gpu.synchronise(self._stream)


class HostMemory:
    """Memory of the host, by address too."""

    device = "cpu"

    def __init__(self) -> None:
        self._blocks: dict[int, np.ndarray] = {}

    def allocate(self, size: int) -> int:
        block = np.zeros(size // 16 + 1, np.complex128)  # 16 bytes each; pages are mapped when they are written
        self._blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address: int) -> None:
        del self._blocks[address]

    def host_array(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.zeros(shape, dtype)

    def upload(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def finish(self) -> None:
        """Nothing is ever under way."""


def open_memory(device: str) -> DeviceMemory:
    """The memory of "cuda" or "cpu".

    Raises:
        ArtifactError: there is no GPU.
    """
    return GpuMemory() if device == GpuMemory.device else HostMemory()
