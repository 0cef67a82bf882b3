"""Each kernel of a decode step beside torch in double precision, on the kernel's own inputs."""

from __future__ import annotations

import torch

from bench.decoder_cuda.model import Buffers, Layer, Shape, random_cache
from bench.decoder_cuda.step import Step
from plugins.decoder_kernels.kernel_library import DecoderKernels


def check_layer(kernels: DecoderKernels, shape: Shape, layer: Layer, lengths: list[int], capacity: int,
                dtype: torch.dtype, splits: int = 0) -> dict[str, float]:
    """Relative errors |out - reference| / |reference| of each kernel's output; NaN where something was not written.

    Args:
        lengths: tokens that each sequence has in the cache before the step.
    """
    batch = len(lengths)
    b = Buffers.random(shape, batch, 0, dtype)
    b.total_lengths.copy_(torch.tensor(lengths) + 1)
    keys, values = random_cache(shape, batch, capacity, dtype)
    for i, length in enumerate(lengths):  # what lies beyond a sequence must not matter
        keys[i, :, length:] = values[i, :, length:] = float("nan")
    step, errors = Step(kernels, shape, b), {}

    def error(name: str, got: torch.Tensor, expected: torch.Tensor) -> None:
        errors[name] = float((got.double() - expected).norm() / expected.norm())

    before = b.h.clone()
    step.begin(layer.input_norm)
    error("normed at first", b.normed, _norm(before, layer.input_norm, shape))
    step.qkv(layer)
    error("qkv", b.qkv, b.normed.double() @ layer.qkv.double().T)
    past_keys, past_values = keys.clone(), values.clone()
    step.attention(layer, keys, values, splits)
    attended, new_keys, new_values = _attention(shape, layer, b, past_keys, past_values, lengths, dtype)
    error("attended", b.attended, attended)
    at = torch.tensor(lengths, device="cuda")
    rows = torch.arange(batch, device="cuda")
    error("key", keys[rows, :, at], new_keys)
    error("value", values[rows, :, at], new_values)
    keys[rows, :, at], values[rows, :, at] = past_keys[rows, :, at], past_values[rows, :, at]
    errors["rest of the cache"] = 0.0 if _same(keys, past_keys) and _same(values, past_values) else float("nan")
    before = b.h.clone()
    step.output(layer)
    error("output", b.h, before.double() + b.attended.double() @ layer.output.double().T)
    step.router(layer)
    normed = _norm(b.h, layer.expert_norm, shape)
    error("normed", b.normed, normed)
    logits = b.normed.double() @ layer.router.double().T
    error("chosen logits", logits.gather(1, b.chosen.long()), logits.topk(shape.chosen).values)
    error("chosen weights", b.chosen_weights, logits.gather(1, b.chosen.long()).softmax(-1))
    distinct = all(len(set(row)) == shape.chosen for row in b.chosen.tolist())
    errors["counters and choices"] = 0.0 if distinct and not b.counters.any() else float("nan")
    step.experts(layer)
    error("experts", b.y, _experts(shape, layer, b))
    before = b.h.clone()
    step.add_norm(layer.input_norm)
    error("added", b.h, before.double() + b.y.double().view(batch, shape.chosen, -1).sum(1))
    error("normed at last", b.normed, _norm(b.h, layer.input_norm, shape))
    return errors


def _norm(x: torch.Tensor, weight: torch.Tensor, shape: Shape) -> torch.Tensor:
    x = x.double()
    return x * (x.square().mean(-1, keepdim=True) + shape.epsilon).rsqrt() * weight.double()


def _rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype).double()


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int16), b.view(torch.int16))


def _attention(shape: Shape, layer: Layer, b: Buffers, keys: torch.Tensor, values: torch.Tensor, lengths: list[int],
               dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = len(lengths)
    query, key, value = b.qkv.view(batch, -1, shape.head_size).split([shape.heads, shape.kv_heads, shape.kv_heads], 1)
    query, key = (_rounded(_turned(_norm(x, weight, shape), b), dtype)
                  for x, weight in ((query, layer.query_norm), (key, layer.key_norm)))
    outputs = []
    for i, length in enumerate(lengths):
        k = torch.cat([keys[i, :, :length].double(), key[i][:, None]], 1).repeat_interleave(
            shape.heads // shape.kv_heads, 0)
        v = torch.cat([values[i, :, :length].double(), value[i].double()[:, None]], 1).repeat_interleave(
            shape.heads // shape.kv_heads, 0)
        weights = (k @ query[i][:, :, None] * shape.head_size**-0.5).softmax(1)
        outputs.append((weights * v).sum(1).flatten())
    return torch.stack(outputs), key, value.double()


def _turned(x: torch.Tensor, b: Buffers) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    cosine, sine = b.cosines.double()[:, None], b.sines.double()[:, None]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def _experts(shape: Shape, layer: Layer, b: Buffers) -> torch.Tensor:
    outputs = []
    for token, (chosen, weights) in enumerate(zip(b.chosen.tolist(), b.chosen_weights, strict=True)):
        x = b.normed[token].double()
        for expert, weight in zip(chosen, weights.double(), strict=True):
            gate, up = (layer.gate_up[expert].double() @ x).view(-1, 2).unbind(1)
            outputs.append(layer.down[expert].double() @ (gate * gate.sigmoid() * up) * weight)
    return torch.stack(outputs)
