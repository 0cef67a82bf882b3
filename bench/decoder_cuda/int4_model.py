"""Layers with random weights of 4 bits, a head of 8 bits, and a decode step through the kernels for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from bench.decoder_cuda.model import Head, Layer, Shape, random_norm
from bench.decoder_cuda.step import Step
from plugins.decoder_kernels import int8_rows
from plugins.decoder_kernels.int4_rows import GROUP


@dataclass(frozen=True)
class CodedRows:
    """Weights [..., rows, K] as integers.

    Attributes:
        codes: uint8 [..., rows, K * bits / 8] in the kernels' order.
        blocks: [..., rows, K / block, 2]: scale and zero point of each block.
    """

    BITS: ClassVar[int]
    codes: torch.Tensor
    blocks: torch.Tensor

    @classmethod
    def random(cls, *sizes: int, block: int, dtype: torch.dtype, device: str = "cuda") -> Self:
        """Any byte is a code or two. Weights have a standard deviation of about K^-0.5; K is a multiple of 128.

        Zero points lie around the codes' mean: with a mean of their own weights would make all tokens alike, layer by
        layer, and these would choose the same few experts.
        """
        *leading, length = sizes
        levels = 2**cls.BITS
        codes = torch.randint(256, (*leading, length * cls.BITS // 8), device=device, dtype=torch.uint8)
        scales = torch.rand(*leading, length // block, device=device).add_(0.5).mul_(length**-0.5 / (0.36 * levels))
        zero_points = torch.randint(levels // 4, levels * 3 // 4, scales.shape, device=device)
        return cls(codes, torch.stack([scales, zero_points], -1).to(dtype))

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.blocks.nbytes

    @property
    def block(self) -> int:
        return self.codes.shape[-1] * 8 // self.BITS // self.blocks.shape[-2]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> Self:
        return type(self)(self.codes[index], self.blocks[index])

    def natural(self) -> torch.Tensor:
        """One code a byte, in the order of the weights: uint8, as many as there are weights."""
        raise NotImplementedError

    def wide(self) -> torch.Tensor:
        """The weights in float64."""
        scales, zero_points = self.blocks.double()[..., None].unbind(-2)
        return ((self.natural().view(*self.blocks.shape[:-1], -1) - zero_points) * scales).flatten(-2)


class Int4Rows(CodedRows):
    """Codes as in plugins/decoder_kernels/int4_rows.py."""

    BITS = 4

    def natural(self) -> torch.Tensor:
        nibbles = torch.stack([self.codes & 15, self.codes >> 4], -1)
        # of a group of 128: thread, run of 32, the second of a pair, pair
        groups = nibbles.view(*self.codes.shape[:-1], -1, 4, GROUP // 32, 2, 4)
        return groups.transpose(-4, -3).transpose(-2, -1).contiguous()


class Int8Rows(CodedRows):
    """Codes as in plugins/decoder_kernels/int8_rows.py."""

    BITS = 8

    def natural(self) -> torch.Tensor:
        groups = self.codes.view(*self.codes.shape[:-1], -1, 4, int8_rows.GROUP // 32, 8)  # thread, run of 32, value
        return groups.transpose(-3, -2).contiguous()


def random_int8_head(shape: Shape, block: int, dtype: torch.dtype) -> Head:
    norm = random_norm(shape.hidden, dtype)
    return Head(norm, Int8Rows.random(shape.vocabulary, shape.hidden, block=block, dtype=dtype))


def random_int4_layer(shape: Shape, block: int, dtype: torch.dtype) -> Layer:
    """Router and norms are of `dtype`."""
    s = shape

    def norm(size: int) -> torch.Tensor:
        return random_norm(size, dtype)

    def rows(*sizes: int) -> Int4Rows:
        return Int4Rows.random(*sizes, block=block, dtype=dtype)

    router = torch.randn(s.experts, s.hidden, device="cuda", dtype=dtype).mul_(1 / math.sqrt(s.hidden))
    return Layer(norm(s.hidden), rows(s.qkv, s.hidden), norm(s.head_size), norm(s.head_size),
                 rows(s.hidden, s.heads * s.head_size), norm(s.hidden), router,
                 rows(s.experts, 2 * s.inner, s.hidden), rows(s.experts, s.hidden, s.inner))


class Int4Step(Step):
    """A step of layers from `random_int4_layer`, and a head from `random_int8_head`."""

    def qkv(self, layer: Layer) -> None:
        b, s = self.buffers, self.shape
        self._product(b.qkv, b.normed, None, layer.qkv, s.qkv, s.hidden)

    def output(self, layer: Layer) -> None:
        b, s = self.buffers, self.shape
        self._product(b.h, b.attended, b.h, layer.output, s.hidden, s.heads * s.head_size)

    def experts(self, layer: Layer) -> None:
        b, s = self.buffers, self.shape
        self._call("int4_experts", b.y, b.activations, b.counters, b.normed, b.chosen, b.chosen_weights,
                   layer.gate_up.codes, layer.gate_up.blocks, layer.down.codes, layer.down.blocks, self.batch, s.chosen,
                   s.experts, s.hidden, s.inner, layer.down.block, self.type)

    def head(self, head: Head) -> None:
        b, s = self.buffers, self.shape
        self._call("int8_logits", b.logits, b.normed, head.weights.codes, head.weights.blocks, self.batch, s.vocabulary,
                   s.hidden, head.weights.block, self.type)

    def _product(self, out: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None, weights: Int4Rows, rows: int,
                 inner: int) -> None:
        self._call("int4_product", out, x, residual, weights.codes, weights.blocks, self.batch, rows, inner,
                   weights.block, self.type)
