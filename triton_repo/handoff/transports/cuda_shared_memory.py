"""Blocks through memory of a GPU that both processes use, by CUDA's sharing between processes.

The receiver's slots are an allocation there; what opens it is a handle of 64 bytes. Rows come from an array of the
sender and go to one of the receiver, for both sum them up: a block is copied up once, and down once.

CUDA leaves undefined what a writer does to memory that its owner has freed, so slots are never freed while their
process lives: those of a closed stream become those of a later one, whose checksum tells of a late write.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engines.cuda_driver import Gpu
from qwen3vl.errors import ArtifactError
from triton_repo.handoff.errors import TransportFailed
from triton_repo.handoff.transports import require_slot


class CudaBuffers:
    """See `ReceiveBuffers`."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots, self.slot_bytes = slots, slot_bytes
        self._gpu, self._lock = _gpu(), threading.Lock()
        self._memory: _Memory | None = self._gpu.take(slots * slot_bytes)
        self._handle = self._gpu.share(self._memory.address)

    def describe(self) -> dict:
        return {"handle": self._handle.hex(), "gpu": self._gpu.uuid, "slots": self.slots, "slot_bytes": self.slot_bytes}

    def opened(self, answer: dict) -> None:
        pass

    def read(self, slot: int, payload: np.ndarray | None, into: np.ndarray) -> None:
        with self._lock:  # so that nobody gives the slots back meanwhile
            if self._memory is None:
                raise TransportFailed("the GPU memory of these block buffers was given back")
            self._gpu.download(into, self._memory, slot * self.slot_bytes)

    def close(self) -> None:
        with self._lock:
            memory, self._memory = self._memory, None
        if memory is not None:
            self._gpu.give_back(memory)


class CudaWriter:
    """See `BlockWriter`."""

    def __init__(self, buffers: dict) -> None:
        self._slots, self._slot_bytes = buffers["slots"], buffers["slot_bytes"]
        self._gpu = _gpu()
        if buffers["gpu"] != self._gpu.uuid:
            raise TransportFailed(f"the language server's GPU is {buffers['gpu']}, but this encode server's is "
                                  f"{self._gpu.uuid}: give both the same one (CUDA_VISIBLE_DEVICES), or use another "
                                  "transport")
        self._memory: _Memory | None = self._gpu.open(bytes.fromhex(buffers["handle"]), self._slots * self._slot_bytes)

    def answer(self) -> dict:
        return {}

    def write(self, slot: int, block: np.ndarray) -> None:
        require_slot(slot, block.nbytes, self._slots, self._slot_bytes)
        if self._memory is None:
            raise TransportFailed("the GPU memory of these block buffers was given back")
        self._gpu.upload(self._memory, slot * self._slot_bytes, np.ascontiguousarray(block))

    def close(self) -> None:
        if self._memory is not None:
            self._gpu.close(self._memory)
            self._memory = None


@dataclass(frozen=True)
class _Memory:
    """GPU memory of one stream's slots, and the queue of the GPU that its copies go through."""

    address: int
    size: int
    stream: int


class _SharedGpu:
    """GPU 0 for all streams of this process. Errors of its driver are `TransportFailed`.

    Attributes:
        uuid: of the GPU, as `nvidia-smi -L` shows it.
    """

    def __init__(self) -> None:
        try:
            self._gpu = Gpu()
            self.uuid = self._gpu.uuid
        except ArtifactError as error:
            raise TransportFailed(f"cuda_shared_memory needs a GPU: {error}") from error
        self._lock = threading.Lock()
        self._free: list[_Memory] = []

    def take(self, size: int) -> _Memory:
        """An allocation of `size` bytes, that of an earlier stream if there is one."""
        with self._lock:
            for i, memory in enumerate(self._free):
                if memory.size == size:
                    return self._free.pop(i)
        with _failures("allocated"):
            stream = self._gpu.create_stream()
            return _Memory(self._gpu.allocate(size), size, stream)

    def give_back(self, memory: _Memory) -> None:
        """For a later stream."""
        with self._lock:
            self._free.append(memory)

    def share(self, address: int) -> bytes:
        with _failures("shared"):
            return self._gpu.share(address)

    def open(self, handle: bytes, size: int) -> _Memory:
        """What another process shares."""
        try:
            address = self._gpu.open_shared(handle)
        except ArtifactError as error:
            raise TransportFailed("the language server's GPU memory cannot be opened: both servers must run on one "
                                  "machine that lets processes share GPU memory (containers: --ipc=host), or use "
                                  f"another transport ({error})") from error
        with _failures("used"):
            return _Memory(address, size, self._gpu.create_stream())

    def close(self, memory: _Memory) -> None:
        """Let go of it; its owner may be gone."""
        with contextlib.suppress(ArtifactError):
            self._gpu.close_shared(memory.address)
        with contextlib.suppress(ArtifactError):
            self._gpu.destroy_stream(memory.stream)

    def upload(self, memory: _Memory, first: int, array: np.ndarray) -> None:
        """Copy a contiguous array there, `first` bytes behind the beginning; done when this returns."""
        with _failures("written"):
            self._gpu.upload(memory.address + first, array, memory.stream)
            self._gpu.synchronise(memory.stream)

    def download(self, array: np.ndarray, memory: _Memory, first: int) -> None:
        """Fill a contiguous array from there; done when this returns."""
        with _failures("read"):
            self._gpu.download(array, memory.address + first, memory.stream)
            self._gpu.synchronise(memory.stream)


@contextlib.contextmanager
def _failures(action: str) -> Iterator[None]:
    try:
        yield
    except ArtifactError as error:
        raise TransportFailed(f"the GPU memory of block buffers cannot be {action}: {error}") from error


@functools.cache
def _gpu() -> _SharedGpu:
    return _SharedGpu()
