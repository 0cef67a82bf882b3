"""Rotary frequencies of both halves of the model; the one place that knows how M-RoPE interleaves its axes."""

from __future__ import annotations

import numpy as np

from qwen3vl.config import TextConfig, VisionConfig


def text_frequencies(config: TextConfig) -> np.ndarray:
    """Angles per unit of position, `theta ** (-2i / head_dim)`: float32 [head_dim / 2]."""
    return _frequencies(config.head_dim, config.rope_theta)


def mrope_axes(config: TextConfig) -> np.ndarray:
    """Which position (0 time, 1 row, 2 column) turns each frequency: int64 [head_dim / 2].

    Interleaved M-RoPE: frequencies 1, 4, 7, ... turn with the row and 2, 5, 8, ... with the column, as many of each
    as `mrope_section` says; all others turn with time.
    """
    axes = np.zeros(config.head_dim // 2, np.int64)
    for axis in (1, 2):
        axes[axis : 3 * config.mrope_section[axis] : 3] = axis
    return axes


def vision_frequencies(config: VisionConfig) -> np.ndarray:
    """Angles per row or column, float32 [head_dim / 4]: rows turn the first half of the pairs, columns the second."""
    return _frequencies(config.head_dim // 2, config.rope_theta)


def _frequencies(dim: int, theta: float) -> np.ndarray:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (1.0 / np.float32(theta) ** exponents).astype(np.float32)
