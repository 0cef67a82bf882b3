"""The peer: `transformers` on the same checkpoint, float32 on the CPU, batched by itself."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from bench.measurement import Load
from engines.fidelity.cases import Case
from engines.fidelity.reference import Reference
from qwen3vl.processor import ModelInputs


class WithTransformers:
    """`generate` of the reference implementation."""

    def __init__(self, checkpoint: Path):
        self.reference = Reference(checkpoint)
        self.reference.model.generation_config.eos_token_id = None

    def load(self, inputs: ModelInputs, concurrency: int, tokens: int, rounds: int) -> Load:
        """Equal requests as one batch: first token, and `tokens` tokens, each from the beginning; medians."""
        batch = self._batch(inputs, concurrency)
        self._generate(batch, 1)  # warms up
        first, total = (statistics.median(self._generate(batch, count) for _ in range(rounds)) for count in (1, tokens))
        return Load(concurrency, first, total, concurrency * tokens / total, concurrency * tokens)

    @torch.no_grad()
    def vision_seconds(self, inputs: ModelInputs, repeats: int) -> float:
        """Median seconds of the vision encoder."""
        case = Case("", inputs, ("image",))
        self.reference.visual_rows(case)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            self.reference.visual_rows(case)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def _batch(self, inputs: ModelInputs, concurrency: int) -> dict[str, torch.Tensor]:
        one = self.reference.inputs(Case("", inputs, ("image",) * len(inputs.grids)))
        return {name: tensor.repeat(concurrency, *[1] * (tensor.ndim - 1)) for name, tensor in one.items()}

    @torch.no_grad()
    def _generate(self, batch: dict[str, torch.Tensor], tokens: int) -> float:
        started = time.perf_counter()
        self.reference.model.generate(**batch, attention_mask=torch.ones_like(batch["input_ids"]), do_sample=False,
                                      max_new_tokens=tokens, min_new_tokens=tokens)
        return time.perf_counter() - started
