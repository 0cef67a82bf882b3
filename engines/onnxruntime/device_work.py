"""What a device does in order while the host goes on: a decoder's computations, and copies between them."""

from __future__ import annotations

import ctypes
from typing import Protocol

from engines.cuda_driver import Gpu


class Mark(Protocol):
    """A place in that order."""

    def set(self) -> None:
        """Behind all that the device has been given until now."""

    def wait(self) -> None:
        """Until the device gets there; not at all where the mark was never set."""


class DeviceWork(Protocol):
    """Addresses are of the memory that belongs to the device.

    Attributes:
        stream: what ONNX Runtime is to compute on, as its option `user_compute_stream` takes it; None for a device
            that has done everything when a call returns.
    """

    stream: int | None

    def copy_rows(self, target: int, source: int, width: int, pitch: int, rows: int) -> None:
        """Copy `rows` times `width` bytes, each `pitch` bytes behind the one before, behind all that came before."""

    def create_mark(self) -> Mark: ...


class GpuWork:
    """A stream of GPU 0."""

    def __init__(self) -> None:
        self._gpu = Gpu()
        self.stream = self._gpu.create_stream()

    def copy_rows(self, target: int, source: int, width: int, pitch: int, rows: int) -> None:
        self._gpu.copy_rows(target, source, width, pitch, rows, self.stream)

    def create_mark(self) -> GpuMark:
        return GpuMark(self._gpu, self.stream)


class GpuMark:
    """An event of the driver."""

    def __init__(self, gpu: Gpu, stream: int):
        self._gpu, self._stream, self._event = gpu, stream, gpu.create_event()

    def set(self) -> None:
        self._gpu.record(self._event, self._stream)

    def wait(self) -> None:
        self._gpu.wait_for(self._event)


class HostWork:
    """The host's own, done at once."""

    stream = None

    def copy_rows(self, target: int, source: int, width: int, pitch: int, rows: int) -> None:
        for row in range(rows):
            ctypes.memmove(target + row * pitch, source + row * pitch, width)

    def create_mark(self) -> HostMark:
        return HostMark()


class HostMark:
    def set(self) -> None:
        """Everything is done."""

    def wait(self) -> None:
        """There is nothing to wait for."""


def open_work(device: str) -> DeviceWork:
    """The work of "cuda" or "cpu".

    Raises:
        ArtifactError: there is no GPU.
    """
    return GpuWork() if device == "cuda" else HostWork()
