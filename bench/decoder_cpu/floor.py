"""Bytes that a decode step must read, and how fast this machine reads."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from export.precision import QUANTISED
from export.quantisation.scheme import Blockwise
from qwen3vl.config import TextConfig

WIDE_BYTES = {"fp32": 4, "bf16": 2}
BLOCK_BYTES = 1 << 30
ROUNDS = 5


def read_bandwidth() -> float:
    """Bytes per second that all cores together read from a block much larger than the caches: the best of five."""
    block = np.ones(BLOCK_BYTES // 4, np.int32)
    cores = len(os.sched_getaffinity(0))
    parts, times = np.array_split(block, cores), []
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            times.append(time.perf_counter() - started)
    return BLOCK_BYTES / min(times)


def step_bytes(text: TextConfig, precision: str, layers: int, batch: int, past: int) -> float:
    """Weights, keys and values that one step of `batch` sequences reads, each once.

    Random routing hits `E (1 - (1 - k/E)^batch)` of E experts on average.
    """
    schemes = QUANTISED.get(precision)
    wide = WIDE_BYTES["fp32"] if schemes else WIDE_BYTES[precision]
    weight, head = ((_bytes_per_value(scheme) for scheme in (schemes.weights, schemes.head)) if schemes
                    else (wide, wide))
    attention = 2 * text.hidden_size * text.head_dim * (text.num_attention_heads + text.num_key_value_heads)
    experts = text.num_experts * (1 - (1 - text.num_experts_per_tok / text.num_experts) ** batch)
    products = attention + experts * 3 * text.hidden_size * text.moe_intermediate_size
    cache = 2 * text.num_key_value_heads * text.head_dim * past * batch * wide
    layer = products * weight + text.hidden_size * text.num_experts * wide + cache
    return layers * layer + text.hidden_size * text.vocab_size * head


def _bytes_per_value(scheme: Blockwise) -> float:
    """Of a code, and of its share of a block's float32 scale and zero point."""
    return scheme.bits / 8 + (4 + scheme.bits / 8) / scheme.block_size
