"""A checkpoint of any size that is nowhere: its weights are made up when they are read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

POOL_VALUES = 1 << 22
# Of the output projection's rows for tokens that are not to be generated: small beside any other's.
HUSHED = 1 / 64


class MadeUpCheckpoint:
    """Reads as `qwen3vl.checkpoint.Checkpoint` does: random bf16 weights scaled by their fan-in, norms 1, biases 0.

    Args:
        folder: where config.json is, for messages.
        hushed: tokens whose logits are too small to be the largest.
    """

    def __init__(self, folder: Path, config: Qwen3VLMoeConfig, hushed: Collection[int] = (), seed: int = 0):
        self.folder, self._hushed = folder, np.fromiter(hushed, np.int64)
        with torch.device("meta"):
            state = Qwen3VLMoeForConditionalGeneration(config).state_dict()
        self._shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        pool = np.random.default_rng(seed).standard_normal(POOL_VALUES, np.float32)
        # Twice, so that any place of it begins a whole pool.
        self._pool = cache(lambda fan_in: np.tile((pool / math.sqrt(fan_in)).astype(ml_dtypes.bfloat16), 2))

    def names(self) -> list[str]:
        return list(self._shapes)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16)

    def read(self, name: str) -> np.ndarray:
        values = self._values(name, self._shapes[name])
        if name == "lm_head.weight" and len(self._hushed):
            values[self._hushed] = (values[self._hushed].astype(np.float32) * HUSHED).astype(values.dtype)
        return values

    def read_slice(self, name: str, index: int) -> np.ndarray:
        return self._values(f"{name}[{index}]", self._shapes[name][1:])

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(self._shapes.items())).encode()).hexdigest()

    def _values(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return np.full(shape, 0 if name.endswith("bias") else 1, ml_dtypes.bfloat16)
        pool = self._pool(shape[-1] if len(shape) < 5 else math.prod(shape[1:]))
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % POOL_VALUES
        return np.resize(pool[start : start + POOL_VALUES], shape)
