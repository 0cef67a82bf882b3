"""DLPack's structures and capsules (https://dmlc.github.io/dlpack/), without a tensor library.

A capsule "dltensor" holds a `DLManagedTensor`. Who takes it over renames the capsule, and calls the tensor's deleter
when it is done.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from ctypes import c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p, py_object
from dataclasses import dataclass

from engines.visual_rows import DeviceRows

NAME = b"dltensor"
DEVICES = {"cpu": 1, "cuda": 2}
FLOAT = 2  # type code


class _Device(ctypes.Structure):
    _fields_ = [("type", c_int32), ("id", c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("device", _Device), ("ndim", c_int32), ("dtype", _DataType),
                ("shape", ctypes.POINTER(c_int64)), ("strides", ctypes.POINTER(c_int64)), ("byte_offset", c_uint64)]


_Deleter = ctypes.CFUNCTYPE(None, c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", c_void_p), ("deleter", _Deleter)]


_new = ctypes.PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))

# What is lent: the number of each tensor, in its context -> its structure, its shape and its rows.
_lent: dict[int, tuple[_Managed, ctypes.Array, DeviceRows]] = {}
_numbers = itertools.count(1)


@_Deleter
def _take_back(managed: int) -> None:
    _lent.pop(_Managed.from_address(managed).context)


def lend(rows: DeviceRows) -> object:
    """A capsule by which another library reads rows, which are held until it says that it is done.

    A capsule that nobody takes over has to be given to `withdraw`: it does not do that itself, for the code that runs
    when a capsule is destroyed must not be Python.
    """
    shape, number = (c_int64 * 2)(*rows.shape), next(_numbers)
    tensor = _Tensor(rows.address, _Device(DEVICES[rows.memory.device], 0), 2, _DataType(FLOAT, 32, 1), shape, None, 0)
    managed = _Managed(tensor, number, _take_back)
    _lent[number] = managed, shape, rows
    return _new(ctypes.addressof(managed), NAME, None)


def withdraw(capsule: object) -> None:
    """Take back what `lend` gave and nobody took over.

    Raises:
        ValueError: somebody did.
    """
    _take_back(_pointer(capsule, NAME))


def lent_count() -> int:
    """How many tensors somebody still reads."""
    return len(_lent)


@dataclass(frozen=True)
class Borrowed:
    """A float32 tensor of another library, readable for as long as this object lives and its owner says.

    Attributes:
        address: of its first element; the others are behind it.
        capsule: what holds it.
    """

    address: int
    shape: tuple[int, ...]
    capsule: object


def borrow(capsule: object) -> Borrowed:
    """What a capsule holds; the capsule is left as it is.

    Raises:
        ValueError: it is no DLPack capsule, somebody has taken it over, or its tensor is not float32 without gaps.
    """
    tensor = _Managed.from_address(_pointer(capsule, NAME)).tensor
    shape, dtype = tuple(tensor.shape[: tensor.ndim]), tensor.dtype
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _contiguous(shape)
    if (dtype.code, dtype.bits, dtype.lanes) != (FLOAT, 32, 1) or strides != _contiguous(shape):
        raise ValueError(f"a tensor has type code {dtype.code} of {dtype.bits} bits and strides {list(strides)}, "
                         f"expected float32 with strides {list(_contiguous(shape))}")
    return Borrowed((tensor.data or 0) + tensor.byte_offset, shape, capsule)


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)
