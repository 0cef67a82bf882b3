"""GPU memory, copies and streams through the driver's library, which every GPU machine has."""

from __future__ import annotations

import ctypes
import math
import threading
import uuid
from ctypes import byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p

import numpy as np

from qwen3vl.errors import ArtifactError

LIBRARY = "libcuda.so.1"
# CUdevice_attribute
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76


class _IpcHandle(ctypes.Structure):
    """CUipcMemHandle of cuda.h, passed by value."""

    _fields_ = [("reserved", c_ubyte * 64)]


# The functions used, with their argument types; the suffix _v2 is the interface of 64-bit addresses.
FUNCTIONS = {
    "cuInit": [c_uint], "cuDeviceGet": [c_void_p, c_int], "cuDeviceGetAttribute": [c_void_p, c_int, c_int],
    "cuDeviceGetUuid_v2": [c_void_p, c_int],
    "cuDevicePrimaryCtxRetain": [c_void_p, c_int], "cuCtxSetCurrent": [c_void_p], "cuGetErrorString": [c_int, c_void_p],
    "cuMemAlloc_v2": [c_void_p, c_size_t], "cuMemFree_v2": [c_uint64], "cuMemGetInfo_v2": [c_void_p, c_void_p],
    "cuMemHostAlloc": [c_void_p, c_size_t, c_uint], "cuMemsetD8Async": [c_uint64, c_ubyte, c_size_t, c_void_p],
    "cuMemcpyHtoDAsync_v2": [c_uint64, c_void_p, c_size_t, c_void_p],
    "cuMemcpyDtoHAsync_v2": [c_void_p, c_uint64, c_size_t, c_void_p], "cuMemcpy2DAsync_v2": [c_void_p, c_void_p],
    "cuMemcpyDtoDAsync_v2": [c_uint64, c_uint64, c_size_t, c_void_p], "cuIpcGetMemHandle": [c_void_p, c_uint64],
    "cuIpcOpenMemHandle_v2": [c_void_p, _IpcHandle, c_uint], "cuIpcCloseMemHandle": [c_uint64],
    "cuStreamCreate": [c_void_p, c_uint], "cuStreamDestroy_v2": [c_void_p], "cuStreamSynchronize": [c_void_p],
    "cuEventCreate": [c_void_p, c_uint], "cuEventRecord": [c_void_p, c_void_p], "cuEventSynchronize": [c_void_p]}
DEVICE = 2  # CUmemorytype
LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag there is
DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D of cuda.h."""

    _fields_ = [field for side in ("source", "target") for field in (
        (f"{side}_x", c_size_t), (f"{side}_y", c_size_t), (f"{side}_kind", c_uint), (f"{side}_host", c_void_p),
        (f"{side}_device", c_uint64), (f"{side}_array", c_void_p), (f"{side}_pitch", c_size_t))
               ] + [("width", c_size_t), ("height", c_size_t)]


class Gpu:
    """GPU 0 with a stream of its own, in the context that CUDA libraries share.

    Methods may be called from any thread, and from several at once.

    Raises:
        ArtifactError: there is no GPU, or the driver refuses a call.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError:
            raise ArtifactError(f"no NVIDIA driver ({LIBRARY} cannot be loaded): these engines run on a machine with "
                                "a GPU; build with --target cpu for this one") from None
        for name, arguments in FUNCTIONS.items():
            getattr(self._library, name).argtypes = arguments
        self._device, self._context = c_int(), c_void_p()
        self._retaining, self._current = threading.Lock(), threading.local()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", byref(self._device), 0)

    @property
    def compute_capability(self) -> str:
        """Such as "8.9"."""
        major, minor = c_int(), c_int()
        self._call("cuDeviceGetAttribute", byref(major), COMPUTE_CAPABILITY_MAJOR, self._device)
        self._call("cuDeviceGetAttribute", byref(minor), COMPUTE_CAPABILITY_MINOR, self._device)
        return f"{major.value}.{minor.value}"

    @property
    def uuid(self) -> str:
        """Which GPU it is, or which part of one, as `nvidia-smi -L` shows it; the same for all processes."""
        found = (c_ubyte * 16)()
        self._call("cuDeviceGetUuid_v2", found, self._device)
        return str(uuid.UUID(bytes=bytes(found)))

    def create_stream(self) -> int:
        """A stream that waits for the default one, where libraries that say nothing of streams have worked."""
        stream = c_void_p()
        self._in_context("cuStreamCreate", byref(stream), 0)
        return stream.value

    def destroy_stream(self, stream: int) -> None:
        self._in_context("cuStreamDestroy_v2", stream)

    def synchronise(self, stream: int) -> None:
        """Wait until the stream has done all its work."""
        self._in_context("cuStreamSynchronize", stream)

    def create_event(self) -> int:
        event = c_void_p()
        self._in_context("cuEventCreate", byref(event), DISABLE_TIMING)
        return event.value

    def record(self, event: int, stream: int) -> None:
        """Make the event stand for all that the stream has been given until now."""
        self._in_context("cuEventRecord", event, stream)

    def wait_for(self, event: int) -> None:
        """Wait until what the event stands for is done; an event that was never recorded stands for nothing."""
        self._in_context("cuEventSynchronize", event)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes."""
        address = c_uint64()
        self._in_context("cuMemAlloc_v2", byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        self._in_context("cuMemFree_v2", address)

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and all that there are."""
        free, total = c_size_t(), c_size_t()
        self._in_context("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def host_array(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An array in host memory that is copied at full speed, and that kernels can write; it is never given back."""
        address, size = c_void_p(), math.prod(shape) * np.dtype(dtype).itemsize
        self._in_context("cuMemHostAlloc", byref(address), max(1, size), 0)
        return np.ctypeslib.as_array((c_ubyte * size).from_address(address.value)).view(dtype).reshape(shape)

    def clear(self, address: int, size: int, stream: int) -> None:
        """Set bytes to zero, in the stream's order."""
        self._in_context("cuMemsetD8Async", address, 0, size, stream)

    def copy_rows(self, target: int, source: int, width: int, pitch: int, rows: int, stream: int) -> None:
        """Copy `rows` times `width` bytes, each `pitch` bytes behind the one before, in the stream's order."""
        copy = _Copy2D(width=width, height=rows, source_kind=DEVICE, source_device=source, source_pitch=pitch,
                       target_kind=DEVICE, target_device=target, target_pitch=pitch)
        self._in_context("cuMemcpy2DAsync_v2", byref(copy), stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy bytes within the GPU's memory, in the stream's order."""
        self._in_context("cuMemcpyDtoDAsync_v2", target, source, size, stream)

    def share(self, address: int) -> bytes:
        """The 64 bytes by which other processes can open the allocation that begins at an address."""
        handle = _IpcHandle()
        self._in_context("cuIpcGetMemHandle", byref(handle), address)
        return bytes(handle.reserved)

    def open_shared(self, handle: bytes) -> int:
        """Address of another process's allocation in this one."""
        address = c_uint64()
        self._in_context("cuIpcOpenMemHandle_v2", byref(address), _IpcHandle((c_ubyte * 64)(*handle)),
                         LAZY_PEER_ACCESS)
        return address.value

    def close_shared(self, address: int) -> None:
        """Let go of what `open_shared` opened."""
        self._in_context("cuIpcCloseMemHandle", address)

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the GPU, in the stream's order; it must live until the copy is done."""
        self._in_context("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, stream)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        """Fill a contiguous array from the GPU, in the stream's order."""
        self._in_context("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, stream)

    def _in_context(self, name: str, *arguments) -> None:
        """Call with the shared context current, which each thread has to ask for."""
        if not hasattr(self._current, "context"):
            with self._retaining:
                if not self._context:
                    self._call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
            self._call("cuCtxSetCurrent", self._context)
            self._current.context = self._context
        self._call(name, *arguments)

    def _call(self, name: str, *arguments) -> None:
        if status := getattr(self._library, name)(*arguments):
            text = c_char_p()
            self._library.cuGetErrorString(status, byref(text))
            reason = (text.value or b"unknown error").decode()
            raise ArtifactError(f"the NVIDIA driver's {name} failed with error {status} ({reason}); is a GPU visible "
                                "(nvidia-smi, CUDA_VISIBLE_DEVICES), and is enough of its memory free?")


class Buffer:
    """GPU memory that grows to the largest size asked for and is used again for smaller ones."""

    def __init__(self, gpu: Gpu):
        self._gpu, self._size, self._address = gpu, 0, 0

    def reserve(self, size: int) -> int:
        """Address of at least `size` bytes; what was in them is lost where the buffer has to grow."""
        if size > self._size:
            if self._address:
                self._gpu.free(self._address)
                self._address, self._size = 0, 0
            self._address, self._size = self._gpu.allocate(size), size
        return self._address
