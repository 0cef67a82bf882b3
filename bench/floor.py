"""What the machine allows at best: bytes that must be read over the bandwidth measured in the same run."""

from __future__ import annotations

import time

import numpy as np

from qwen3vl.config import ModelConfig

BLOCK_BYTES = 512 * 1024 * 1024


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copying a block much larger than the caches: the best of five."""
    source = np.ones(BLOCK_BYTES // 8)
    target = np.empty_like(source)
    np.copyto(target, source)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return 2 * BLOCK_BYTES / min(times)


def decoder_bytes_per_token(config: ModelConfig, bytes_per_value: int = 4) -> int:
    """Weights that one decode step of one sequence reads: attention, router, the chosen experts, and the head."""
    text = config.text
    attention = text.hidden_size * text.head_dim * 2 * (text.num_attention_heads + text.num_key_value_heads)
    sparse = text.hidden_size * (text.num_experts + 3 * text.num_experts_per_tok * text.moe_intermediate_size)
    dense = 3 * text.hidden_size * text.intermediate_size
    layers = sum(attention + (sparse if text.is_sparse(layer) else dense) for layer in range(text.num_hidden_layers))
    return bytes_per_value * (layers + text.hidden_size * text.vocab_size)
