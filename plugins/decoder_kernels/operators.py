"""The operators' definitions: their names, inputs and attributes, and what they compute, in numpy.

They are what the decoder is made of, beside DeepstackAdd (plugins/deepstack_add). What StepInputs and TopLogits compute
stands in step_ends.py. Sums are taken in float64 here.
Tokens may be those of a decode step, one for each of B sequences, or a chunk of one sequence: [B, S, ...] with B or S
of 1.
Weights are rows: [out, in]; those of 4 and 8 bits are two arrays, codes in the kernels' order and the blocks' scales
and zero points (int4_rows.py, int8_rows.py).
"""

from __future__ import annotations

import numpy as np

from plugins.decoder_kernels import int8_rows
from plugins.decoder_kernels.int4_rows import dequantise_rows

DOMAIN = "qwen3vl"
VERSION = 1
STEP_INPUTS, TOP_LOGITS = "StepInputs", "TopLogits"
ROW_PRODUCT, ROW_PRODUCT_ADD, ROW_LOGITS = "RowProduct", "RowProductAdd", "RowLogits"
CACHED_ATTENTION, ROUTED_EXPERTS = "CachedAttention", "RoutedExperts"
INPUT_NORM, ADD_NORM, WANTED_NORM = "InputNorm", "AddNorm", "WantedNorm"
INT4_ROW_PRODUCT, INT4_ROW_PRODUCT_ADD = "Int4RowProduct", "Int4RowProductAdd"
INT4_ROUTED_EXPERTS, INT8_ROW_LOGITS = "Int4RoutedExperts", "Int8RowLogits"


def row_product(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`x weights'`: float [..., K] and [N, K] to [..., N]."""
    return (x.astype(np.float64) @ weights.astype(np.float64).T).astype(x.dtype)


def row_product_add(x: np.ndarray, weights: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """`x weights' + residual`, rounded once: float [..., K], [N, K], [..., N] to [..., N]."""
    return (x.astype(np.float64) @ weights.astype(np.float64).T + residual).astype(x.dtype)


def int4_row_product(x: np.ndarray, codes: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """`row_product` with weights of 4 bits: uint8 [N, K / 2] and, of x's type, [N, K / block, 2]."""
    return row_product(x, dequantise_rows(codes, blocks))


def int4_row_product_add(x: np.ndarray, codes: np.ndarray, blocks: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """`row_product_add` with weights of 4 bits, as in `int4_row_product`."""
    return row_product_add(x, dequantise_rows(codes, blocks), residual)


def row_logits(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`x weights'` as float32, whatever the type of x."""
    return (x.astype(np.float64) @ weights.astype(np.float64).T).astype(np.float32)


def int8_row_logits(x: np.ndarray, codes: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """`row_logits` with weights of 8 bits: uint8 [N, K] and, of x's type, [N, K / block, 2]."""
    return row_logits(x, int8_rows.dequantise_rows(codes, blocks))


def input_norm(h: np.ndarray, norm: np.ndarray, *, epsilon: float) -> np.ndarray:
    """`rms_norm(h) * norm` of the first layer's input: float [..., H] and [H] to [..., H]."""
    return _rms_norm(h, norm, epsilon)


def add_norm(h: np.ndarray, y: np.ndarray, norm: np.ndarray, *, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """The sum of `h` and its experts' outputs, normalised and as it is.

    Args:
        h: float [..., H].
        y: float [..., k, H], what `routed_experts` gives.
        norm: float [H].

    Returns:
        `rms_norm(total) * norm` and `total = h + sum(y)`, both [..., H].
    """
    total = (h.astype(np.float64) + y.astype(np.float64).sum(-2)).astype(h.dtype)
    return _rms_norm(total, norm, epsilon), total


def wanted_norm(h: np.ndarray, y: np.ndarray, norm: np.ndarray, rows: np.ndarray, *, epsilon: float) -> np.ndarray:
    """The first output of `add_norm` for some tokens alone.

    Args:
        rows: int32 [R], of h and y as [tokens, H] and [tokens, k, H].

    Returns:
        float [R, H].
    """
    normed, _ = add_norm(h, y, norm, epsilon=epsilon)
    return normed.reshape(-1, h.shape[-1])[rows]


def routed_experts(h: np.ndarray, norm: np.ndarray, router: np.ndarray, gate_up: np.ndarray, down: np.ndarray, *,
                   k: int, epsilon: float) -> np.ndarray:
    """The outputs of each token's k best experts, by their softmax weights, which add up to 1.

    `add_norm` takes their sum.

    `x = rms_norm(h) * norm`; experts by the largest `x router'`; of an expert, `down (silu(gate x) * up x)`.

    Args:
        h: float [..., H].
        norm: float [H].
        router: float [E, H].
        gate_up: float [E, 2 I, H]; rows 2 i and 2 i + 1 are gate i and up i.
        down: float [E, H, I].

    Returns:
        float [..., k, H], the largest weight's expert first.
    """
    x = _rms_norm(h, norm, epsilon).astype(np.float64)
    logits = x @ router.astype(np.float64).T
    chosen = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    best = np.take_along_axis(logits, chosen, -1)
    weights = np.exp(best - best[..., :1])
    weights /= weights.sum(-1, keepdims=True)
    both = np.einsum("...kih,...h->...ki", gate_up.astype(np.float64)[chosen], x)
    gate, up = both[..., 0::2], both[..., 1::2]
    activated = gate / (1 + np.exp(-gate)) * up
    mixed = np.einsum("...khi,...ki->...kh", down.astype(np.float64)[chosen], activated)
    return (mixed * weights[..., None]).astype(h.dtype)


def int4_routed_experts(h: np.ndarray, norm: np.ndarray, router: np.ndarray, gate_up: np.ndarray,
                        gate_up_blocks: np.ndarray, down: np.ndarray, down_blocks: np.ndarray, *, k: int,
                        epsilon: float) -> np.ndarray:
    """`routed_experts` with experts of 4 bits.

    Args:
        gate_up, gate_up_blocks: uint8 [E, 2 I, H / 2] and, of h's type, [E, 2 I, H / block, 2].
        down, down_blocks: uint8 [E, H, I / 2] and, of h's type, [E, H, I / block, 2].
    """
    wide = (dequantise_rows(*weights) for weights in ((gate_up, gate_up_blocks), (down, down_blocks)))
    return routed_experts(h, norm, router, *wide, k=k, epsilon=epsilon)


def cached_attention(qkv: np.ndarray, query_norm: np.ndarray, key_norm: np.ndarray, cosines: np.ndarray,
                     sines: np.ndarray, keys: np.ndarray, values: np.ndarray, total_lengths: np.ndarray, *,
                     num_heads: int, kv_num_heads: int, epsilon: float,
                     scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention of new tokens to all before them, which appends them to the cache.

    Each head of queries and keys is normalised, and dimension d turned with d + D / 2 by the token's angle d.

    Args:
        qkv: float [B, S, (num_heads + 2 kv_num_heads) D]: queries, keys, values.
        query_norm, key_norm: float [D].
        cosines, sines: float32 [B, S, D / 2].
        keys, values: float [B, kv_num_heads, capacity, D].
        total_lengths: int32 [B]: tokens of each sequence, the new ones, which are the last, counted.

    Returns:
        float [B, S, num_heads D], and the cache with the new tokens; an engine binds it to the memory of the old.
    """
    batch, count, _ = qkv.shape
    size = keys.shape[-1]
    query, key, value = np.split(qkv.reshape(batch, count, -1, size), [num_heads, num_heads + kv_num_heads], 2)
    query, key = (_rotate(_rms_norm(x, norm, epsilon), cosines, sines)
                  for x, norm in ((query, query_norm), (key, key_norm)))
    keys, values, out = keys.copy(), values.copy(), np.empty((batch, count, num_heads * size), qkv.dtype)
    for b, total in enumerate(total_lengths):
        keys[b, :, total - count : total] = key[b].swapaxes(0, 1)
        values[b, :, total - count : total] = value[b].swapaxes(0, 1)
        for i in range(count):
            k, v = (np.repeat(x[b, :, : total - count + i + 1].astype(np.float64), num_heads // kv_num_heads, 0)
                    for x in (keys, values))
            scores = np.einsum("hd,htd->ht", query[b, i].astype(np.float64), k) * scale
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, i] = np.einsum("ht,htd->hd", weights / weights.sum(-1, keepdims=True), v).reshape(-1)
    return out, keys, values


def _rms_norm(x: np.ndarray, norm: np.ndarray, epsilon: float) -> np.ndarray:
    wide = x.astype(np.float64)
    return (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon) * norm).astype(x.dtype)


def _rotate(x: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
    first, second = np.split(x.astype(np.float64), 2, axis=-1)
    cosines, sines = cosines[:, :, None], sines[:, :, None]
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], -1).astype(x.dtype)
