"""Arrays in GPU memory, of whichever library, by DLPack or `__cuda_array_interface__`."""

from __future__ import annotations

import ctypes
import math
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from dataclasses import dataclass, field

import numpy as np

# DLDeviceType and DLDataTypeCode of dlpack.h
DL_CUDA = 2
DL_KINDS = {0: "i", 1: "u", 2: "f"}


@dataclass(frozen=True)
class GpuArray:
    """A contiguous array in GPU memory; other libraries can take it by `__cuda_array_interface__`.

    Attributes:
        address: of its first element.
        owner: what keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: object = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict:
        return {"version": 3, "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False),
                "strides": None, "stream": None}


def on_gpu(array: object) -> bool:
    """Whether the array says that it is in GPU memory."""
    if hasattr(array, "__dlpack_device__"):
        return array.__dlpack_device__()[0] == DL_CUDA
    return hasattr(array, "__cuda_array_interface__")


def gpu_array(array: object, stream: int) -> GpuArray:
    """View an array that is on the GPU, ready to be used in a stream.

    Args:
        array: anything with `__dlpack__` or `__cuda_array_interface__`.
        stream: address of the stream; what the array's library still has to do to it comes first.

    Raises:
        ValueError: it is not contiguous, or of an element type that numpy lacks.
    """
    if isinstance(array, GpuArray):
        return array
    if hasattr(array, "__dlpack__"):
        return from_dlpack(array.__dlpack__(stream=stream))
    interface = array.__cuda_array_interface__
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    steps = interface.get("strides")
    _require_contiguous(shape, steps and tuple(step // dtype.itemsize for step in steps))
    return GpuArray(interface["data"][0], shape, dtype, array)


class _DLTensor(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32),
                ("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16), ("shape", POINTER(c_int64)),
                ("strides", POINTER(c_int64)), ("byte_offset", c_uint64))


def from_dlpack(capsule: object) -> GpuArray:
    """View the tensor of a DLPack capsule (unversioned), which stays its owner. Errors as in `gpu_array`."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = c_void_p, (ctypes.py_object, ctypes.c_char_p)
    # DLManagedTensor starts with its DLTensor.
    tensor = _DLTensor.from_address(pointer(capsule, b"dltensor"))
    if tensor.code not in DL_KINDS or tensor.lanes != 1:
        raise ValueError(f"the array's DLPack type (code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes) is "
                         "none of numpy's")
    shape = tuple(tensor.shape[: tensor.ndim])
    _require_contiguous(shape, tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None)
    dtype = np.dtype(f"{DL_KINDS[tensor.code]}{tensor.bits // 8}")
    return GpuArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, capsule)


def _require_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    """Strides are in elements."""
    expected = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    wrong = strides and [axis for axis, size in enumerate(shape) if size > 1 and strides[axis] != expected[axis]]
    if wrong and math.prod(shape):
        raise ValueError(f"the array of shape {list(shape)} has strides {list(strides)}, expected {expected}: make it "
                         "contiguous")
