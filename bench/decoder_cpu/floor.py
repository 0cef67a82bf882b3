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
BLOCK_BYTES = 1 << 29


class MemoryReader:
    """Reads a block much larger than the caches with all cores: with a dot product, the fastest of what NumPy has."""

    def __init__(self):
        cores = len(os.sched_getaffinity(0))
        self._parts = np.array_split(np.ones(BLOCK_BYTES // 4, np.float32), cores)
        self._pool = ThreadPoolExecutor(cores)

    def read(self) -> float:
        """Read it once. Returns bytes per second."""
        started = time.perf_counter()
        list(self._pool.map(lambda part: np.dot(part, part), self._parts))
        return BLOCK_BYTES / (time.perf_counter() - started)


def step_bytes(text: TextConfig, precision: str, layers: int, batch: int, past: int) -> float:
    """Weights, keys and values that one step of `batch` sequences reads, each once.

    Random routing hits `E (1 - (1 - k/E)^batch)` of E experts on average.
    """
    wide, _, head = _bytes_of_a_value(precision)
    experts = text.num_experts * (1 - (1 - text.num_experts_per_tok / text.num_experts) ** batch)
    cache = 2 * text.num_key_value_heads * text.head_dim * past * batch * wide
    return (layers * (_layer_bytes(text, precision, experts) + cache)
            + text.hidden_size * text.vocab_size * head)


def weight_bytes(text: TextConfig, precision: str, layers: int) -> float:
    """All weights: those of the layers, the output projection, and the embedding, of the activations' type."""
    wide, _, head = _bytes_of_a_value(precision)
    return (layers * _layer_bytes(text, precision, text.num_experts)
            + text.hidden_size * text.vocab_size * (head + wide))


def _layer_bytes(text: TextConfig, precision: str, experts: float) -> float:
    """A layer's weights with so many of its experts; norms are left out."""
    wide, weight, _ = _bytes_of_a_value(precision)
    attention = 2 * text.hidden_size * text.head_dim * (text.num_attention_heads + text.num_key_value_heads)
    products = attention + experts * 3 * text.hidden_size * text.moe_intermediate_size
    return products * weight + text.hidden_size * text.num_experts * wide


def _bytes_of_a_value(precision: str) -> tuple[float, float, float]:
    """Of activations, of the layers' weights and of the output projection's."""
    if precision in WIDE_BYTES:
        return (WIDE_BYTES[precision],) * 3
    schemes = QUANTISED[precision]
    return WIDE_BYTES["fp32"], _bytes_of_a_code(schemes.weights), _bytes_of_a_code(schemes.head)


def _bytes_of_a_code(scheme: Blockwise) -> float:
    """A code, and its share of a block's float32 scale and zero point."""
    return scheme.bits / 8 + (4 + scheme.bits / 8) / scheme.block_size
