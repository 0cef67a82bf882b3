"""The operators' definitions: their names, inputs and attributes, and what they compute, in numpy."""

from __future__ import annotations

import numpy as np

DOMAIN = "qwen3vl"
VERSION = 1
VISION_ATTENTION, BIAS_GELU, ADD_POSITIONS = "VisionAttention", "BiasGelu", "AddPositions"

# Head sizes that VisionAttention has kernels for.
HEAD_SIZES = (64, 72)


def vision_attention(qkv: np.ndarray, bias: np.ndarray, cosines: np.ndarray, sines: np.ndarray, *,
                     num_heads: int) -> np.ndarray:
    """Attention of every patch to all of the same frame, from the product of one linear layer.

    `softmax(rotate(q) rotate(k)' / sqrt(D)) v` for each head of size D, where q, k, v are the thirds of `qkv + bias`
    and `rotate` turns dimension d with d + D / 2 by the patch's angle d.

    Args:
        qkv: float [F, P, 3 * num_heads * D], queries, keys and values of F frames of P patches.
        bias: float [3 * num_heads * D].
        cosines, sines: float32 [P, D / 2].

    Returns:
        float [F, P, num_heads * D], of the dtype of `qkv`; computed in float64.
    """
    frames, patches, width = qkv.shape
    size = width // (3 * num_heads)
    parts = (qkv.astype(np.float64) + bias).reshape(frames, patches, 3, num_heads, size).transpose(2, 0, 3, 1, 4)
    query, key, value = _rotate(parts[0], cosines, sines), _rotate(parts[1], cosines, sines), parts[2]
    scores = query @ key.swapaxes(-1, -2) / size**0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    return mixed.transpose(0, 2, 1, 3).reshape(frames, patches, num_heads * size).astype(qkv.dtype)


def _rotate(x: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def bias_gelu(x: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """`gelu(x + bias)` with the tanh approximation: float [..., H] and [H]; computed in float64."""
    total = x.astype(np.float64) + bias
    return (0.5 * total * (1 + np.tanh((2 / np.pi) ** 0.5 * (total + 0.044715 * total**3)))).astype(x.dtype)


def add_positions(x: np.ndarray, bias: np.ndarray, table: np.ndarray, indices: np.ndarray,
                  weights: np.ndarray) -> np.ndarray:
    """`x + bias` and, for each patch, the weighted sum of four rows of a table; computed in float64.

    Args:
        x: float [F, P, H].
        bias: float [H].
        table: float [N, H].
        indices: int32 [P, 4], 0 to N - 1.
        weights: float32 [P, 4].
    """
    positions = np.einsum("pth,pt->ph", table.astype(np.float64)[indices], weights)
    return (x.astype(np.float64) + bias + positions).astype(x.dtype)
