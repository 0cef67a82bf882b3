"""Tensors and operations of a network, computed at once, with TensorRT's rules on types and shapes."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch

from tests.engines.trtllm.stand_in.tensorrt import DataType, ILayer, ITensor

FLOATS = (DataType.FLOAT, DataType.HALF, DataType.BF16)
NAMES = {"float32": DataType.FLOAT, "float16": DataType.HALF, "bfloat16": DataType.BF16, "int32": DataType.INT32}


class NetworkError(Exception):
    """The real library would refuse the network, or what it computes would not be defined."""


class Tensor:
    """A tensor of the network.

    With `is_network_input` it is an input, entered into the network under its name, and has a value only while the
    network is run; otherwise it is made by an operation.
    """

    def __init__(self, name=None, dtype=None, shape=None, dim_range=None, is_network_input=True, location=None,
                 network=None, trt_tensor=None) -> None:
        self.trt_tensor = trt_tensor or ITensor(dtype, None, name, shape)
        if is_network_input:
            from tests.engines.trtllm.stand_in.network import default_net

            default_net().inputs[name] = self

    @property
    def value(self) -> torch.Tensor:
        if self.trt_tensor.value is None:
            raise NetworkError(f"input {self.trt_tensor.name} is used, but nobody has given it a value")
        return self.trt_tensor.value

    @property
    def dtype(self) -> DataType:
        return self.trt_tensor.dtype

    def mark_output(self, name: str, dtype: str) -> None:
        from tests.engines.trtllm.stand_in.network import default_net

        default_net().outputs[name] = self.value

    def __add__(self, other):
        return _elementwise(self, other, torch.add)

    def __sub__(self, other):
        return _elementwise(self, other, torch.sub)

    def __mul__(self, other):
        return _elementwise(self, other, torch.mul)

    def __gt__(self, other):
        return _elementwise(self, other, torch.gt, DataType.BOOL)


def made(value: torch.Tensor, dtype: DataType) -> Tensor:
    """The result of an operation."""
    return Tensor(is_network_input=False, trt_tensor=ITensor(dtype, value))


def _create_tensor(trt_tensor: ITensor, producer: ILayer) -> Tensor:
    if not isinstance(trt_tensor, ITensor) or not isinstance(producer, ILayer):
        raise NetworkError(f"a tensor is made of an ITensor and an ILayer, not of {trt_tensor!r} and {producer!r}")
    return Tensor(is_network_input=False, trt_tensor=trt_tensor)


def shape(input, dim=None, cast_to_dtype=None, clip_before_cast=None) -> Tensor:
    sizes = torch.tensor(input.value.shape)
    return made(sizes if dim is None else sizes[dim], DataType.INT32)


def unsqueeze(input, axis) -> Tensor:
    return made(input.value.unsqueeze(axis), input.dtype)


def expand(input, expand_shape) -> Tensor:
    sizes = expand_shape.value.tolist()
    if input.value.ndim != len(sizes):
        raise NetworkError(f"expand from {tuple(input.value.shape)} to {sizes}: ranks differ")
    return made(input.value.expand(sizes), input.dtype)


def where(condition, left, right) -> Tensor:
    # Unlike in sums and comparisons, a number does not take the other input's type here.
    left, right = (side if isinstance(side, Tensor) else _constant(side, None) for side in (left, right))
    if condition.dtype is not DataType.BOOL:
        raise NetworkError(f"select by {condition.dtype}, expected BOOL")
    if left.dtype is not right.dtype:
        raise NetworkError(f"select between {left.dtype} and {right.dtype} in a strongly typed network")
    values = _aligned(condition.value, left.value, right.value)
    return made(torch.where(*values), left.dtype)


def embedding(input, weight, tp_size=1, tp_group=None, sharding_dim=0, tp_rank=None, per_token_scale=None,
              padding=None) -> Tensor:
    if input.dtype is not DataType.INT32:
        raise NetworkError(f"gather with indices of {input.dtype}, expected INT32")
    if input.value.numel() and not 0 <= int(input.value.min()) <= int(input.value.max()) < len(weight.value):
        raise NetworkError(f"gather of rows {int(input.value.min())} to {int(input.value.max())} of "
                           f"{len(weight.value)}: what TensorRT gives for rows that are not there is not defined")
    return made(weight.value[input.value.long()], weight.dtype)


def _constant(number: float, like: Tensor | None) -> Tensor:
    dtype = like.dtype if like is not None else DataType.INT32 if isinstance(number, int) else DataType.FLOAT
    return made(torch.tensor([number], dtype=torch.float32 if dtype in FLOATS else torch.int32), dtype)


def _elementwise(left: Tensor, right: Tensor | float, operation: Callable, dtype: Enum | None = None) -> Tensor:
    right = right if isinstance(right, Tensor) else _constant(right, left)
    if left.dtype is not right.dtype:
        raise NetworkError(f"{operation.__name__} of {left.dtype} and {right.dtype} in a strongly typed network")
    return made(operation(*_aligned(left.value, right.value)), dtype or left.dtype)


def _aligned(*values: torch.Tensor) -> list[torch.Tensor]:
    """The same rank for all, by 1s in front; sizes are equal or 1."""
    rank = max(value.ndim for value in values)
    values = [value.reshape((1,) * (rank - value.ndim) + value.shape) for value in values]
    for sizes in zip(*(value.shape for value in values), strict=True):
        if len(set(sizes) - {1}) > 1:
            raise NetworkError(f"shapes {[tuple(value.shape) for value in values]} do not go together")
    return values
