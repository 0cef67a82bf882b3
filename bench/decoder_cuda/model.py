"""Random weights, caches and buffers at the decoder's real shapes, on the GPU."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from engines.onnxruntime.cuda_record import CANDIDATES, DRAW_NUMBERS
from plugins.decoder_kernels.kernel_library import type_number


@dataclass(frozen=True)
class Shape:
    """Sizes of Qwen3-VL-30B-A3B's decoder."""

    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 4
    head_size: int = 128
    experts: int = 128
    chosen: int = 8
    inner: int = 768
    layers: int = 48
    vocabulary: int = 151936
    epsilon: float = 1e-6

    @property
    def qkv(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def counters(self) -> int:
        """int32 of the experts' kernels: 256, and what one token's with weights of 4 bits exchange."""
        return 256 + self.chosen * self.inner // 2


@dataclass(frozen=True)
class Layer:
    """One layer's weights; matrices are [out, in], gate and up rows alternate."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    query_norm: torch.Tensor
    key_norm: torch.Tensor
    output: torch.Tensor
    expert_norm: torch.Tensor
    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True)
class Head:
    norm: torch.Tensor
    weights: torch.Tensor


def random_norm(size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(size, device="cuda", dtype=dtype).mul_(0.1).add_(1)


def random_layer(shape: Shape, dtype: torch.dtype) -> Layer:
    def matrix(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, device="cuda", dtype=dtype).mul_(sizes[-1] ** -0.5)

    def norm(size: int) -> torch.Tensor:
        return random_norm(size, dtype)

    s = shape
    return Layer(norm(s.hidden), matrix(s.qkv, s.hidden), norm(s.head_size), norm(s.head_size),
                 matrix(s.hidden, s.heads * s.head_size), norm(s.hidden), matrix(s.experts, s.hidden),
                 matrix(s.experts, 2 * s.inner, s.hidden), matrix(s.experts, s.hidden, s.inner))


def random_head(shape: Shape, dtype: torch.dtype) -> Head:
    norm = random_norm(shape.hidden, dtype)
    weights = torch.randn(shape.vocabulary, shape.hidden, device="cuda", dtype=dtype).mul_(shape.hidden**-0.5)
    return Head(norm, weights)


@dataclass
class Buffers:
    """What one step of `batch` sequences reads and writes besides weights and cache."""

    h: torch.Tensor
    qkv: torch.Tensor
    attended: torch.Tensor
    normed: torch.Tensor
    chosen: torch.Tensor
    chosen_weights: torch.Tensor
    counters: torch.Tensor
    activations: torch.Tensor
    y: torch.Tensor
    cosines: torch.Tensor
    sines: torch.Tensor
    total_lengths: torch.Tensor
    logits: torch.Tensor
    best: torch.Tensor
    ids: torch.Tensor
    next_ids: torch.Tensor
    found: torch.Tensor
    draws: torch.Tensor

    @classmethod
    def random(cls, shape: Shape, batch: int, past: int, dtype: torch.dtype) -> Buffers:
        """Every output is NaN or -1 until it is written. Draws are of temperature 0."""
        s = shape

        def unwritten(*sizes: int, of: torch.dtype = dtype) -> torch.Tensor:
            return torch.full(sizes, float("nan"), device="cuda", dtype=of)

        angles = torch.rand(batch, s.head_size // 2, device="cuda") * 6.28
        return cls(
            h=torch.randn(batch, s.hidden, device="cuda", dtype=dtype), qkv=unwritten(batch, s.qkv),
            attended=unwritten(batch, s.heads * s.head_size), normed=unwritten(batch, s.hidden),
            chosen=torch.full((batch, s.chosen), -1, device="cuda", dtype=torch.int32),
            chosen_weights=unwritten(batch, s.chosen, of=torch.float32),
            counters=torch.full((s.counters,), 7, device="cuda", dtype=torch.int32),
            activations=unwritten(batch * s.chosen, s.inner), y=unwritten(batch * s.chosen, s.hidden),
            cosines=angles.cos(), sines=angles.sin(),
            total_lengths=torch.full((batch,), past + 1, device="cuda", dtype=torch.int32),
            logits=unwritten(batch, s.vocabulary, of=torch.float32),
            best=unwritten(batch, CANDIDATES, of=torch.float32),
            ids=torch.full((batch, CANDIDATES), -1, device="cuda", dtype=torch.int64),
            next_ids=torch.full((batch,), -1, device="cuda", dtype=torch.int64),
            found=torch.full((batch, s.vocabulary), -1, device="cuda", dtype=torch.int64),  # scratch, more than enough
            draws=torch.zeros(batch, DRAW_NUMBERS, device="cuda", dtype=torch.float64))


def random_cache(shape: Shape, batch: int, capacity: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = (batch, shape.kv_heads, capacity, shape.head_size)
    return tuple(torch.randn(sizes, device="cuda", dtype=dtype) for _ in range(2))


def layer_bytes(layer: Layer, experts_used: float) -> float:
    """Weights that one layer of a step reads."""
    sizes = {field.name: getattr(layer, field.name).nbytes for field in fields(layer)}
    of_experts = sizes["gate_up"] + sizes["down"]
    return sum(sizes.values()) - of_experts + of_experts * experts_used / len(layer.down)


def element_type(dtype: torch.dtype) -> int:
    """The kernels' number of it."""
    return type_number(str(dtype).removeprefix("torch."))
