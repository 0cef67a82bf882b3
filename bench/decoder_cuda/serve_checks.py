"""The checks of one engine of the decoder for a GPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.decoder_cuda.ahead_check import check_ahead
from bench.decoder_cuda.checks import require
from bench.decoder_cuda.serve_reference import STEP_TOKENS, STEPS, Prompt, Reference, relative
from engines.batching.batcher import Batcher
from engines.batching.prefill import PrefillSettings
from engines.batching.request import GenerationRequest
from engines.onnxruntime.cuda_decoder import CudaDecoder
from qwen3vl.limits import Limits

ALLOWED_NOISE = 3
SLOTS = 12
LIMITS = Limits(prompt_tokens=2048, total_tokens=3072)


def prefill(decoder: CudaDecoder, slot: int, request: GenerationRequest, chunk: int) -> np.ndarray:
    found, length = [], len(request.token_ids)
    for start in range(0, length, chunk):
        part = slice(start, min(start + chunk, length))
        found.append(decoder.prefill(slot, request.token_ids[part], request.position_ids[:, part], request.visual_rows,
                                     start, np.arange(part.stop - start, dtype=np.int32)))
    return np.concatenate(found)


class Checks:
    """The checks of one engine.

    Args:
        engines: the `engines/` folder.
    """

    def __init__(self, engines: Path, device: str, reference: Reference, prompts: list[Prompt]):
        self._engines, self._device, self._reference, self._prompts = engines, device, reference, prompts

    def logits(self, chunk: int, graphs: bool) -> str:
        """Prompts in the last slots are moved to the first ones; half a prompt stays behind them meanwhile."""
        decoder = CudaDecoder(self._engines, SLOTS, LIMITS.total_tokens, self._device, graphs=graphs)
        require(decoder.has_graphs == (graphs and self._device == "cuda"), "steps are not captured")
        found: list[list[np.ndarray]] = []
        for slot, prompt in enumerate(self._prompts):
            found.append([prefill(decoder, SLOTS - 1, prompt.request, chunk)])
            decoder.move_slot(SLOTS - 1, slot, len(prompt.request.token_ids))
        first = self._prompts[0].request
        half, count = len(first.token_ids) // 2, len(self._prompts)
        half_prompt = [first.token_ids[:half], first.position_ids[:, :half], first.visual_rows, 0]
        rest = [first.token_ids[half:], first.position_ids[:, half:], first.visual_rows, half]
        beside = [decoder.prefill(count, *half_prompt, np.arange(half, dtype=np.int32))]
        lengths = np.array([len(prompt.request.token_ids) for prompt in self._prompts], np.int32)
        deltas = np.array([prompt.request.rope_delta for prompt in self._prompts], np.int32)
        for step in range(STEPS):
            logits = decoder.decode(np.full(count, STEP_TOKENS[step]), lengths + step + deltas, lengths + step + 1)
            for slot, row in enumerate(logits):
                found[slot].append(row[None].copy())
        beside.append(decoder.prefill(count, *rest, np.arange(len(rest[0]), dtype=np.int32)))
        errors = [(relative(np.concatenate(rows), prompt.logits), prompt.noise)
                  for rows, prompt in zip(found, self._prompts, strict=True)]
        errors.append((relative(np.concatenate(beside), self._prompts[0].logits[: len(first.token_ids)]),
                       self._prompts[0].noise))
        worst, noise = max(errors, key=lambda pair: pair[0] / pair[1])
        require(worst <= ALLOWED_NOISE * noise, f"off by {worst:.2e}, torch by {noise:.2e}")
        return f"off by {worst:.1e}, torch in this precision by {noise:.1e}"

    def ahead(self) -> str:
        decoder = CudaDecoder(self._engines, SLOTS, LIMITS.total_tokens, self._device)
        return check_ahead(decoder, [prompt.request for prompt in self._prompts])

    def times(self) -> str:
        """Wall time of steps, greedy choice included, beside a cache of 1000 tokens each: medians."""
        decoder, found = CudaDecoder(self._engines, SLOTS, LIMITS.total_tokens, self._device), []
        for count in (1, 4, 8, SLOTS):
            seconds, lengths = [], np.full(count, 1001, np.int32)
            for _ in range(20):
                began = time.perf_counter()
                for row in decoder.begin_step(np.arange(count, dtype=np.int32), lengths - 1, lengths).rows():
                    row.likeliest()
                seconds.append(time.perf_counter() - began)
            found.append(f"{count}: {np.median(seconds) * 1e3:.2f} ms")
        return f"steps of {decoder.config.text.num_hidden_layers} layers: {', '.join(found)}"

    def answers(self) -> str:
        """Many requests at once; each token must be among the best of torch in float32, as near as it is itself."""
        batcher = Batcher(self._engines, LIMITS, SLOTS, PrefillSettings(max_tokens=64), device=self._device)
        try:
            answers = ask_all(batcher, [prompt.request for prompt in self._prompts * 3])
        finally:
            batcher.close()
        worst = 0.0
        for prompt, answer in zip(self._prompts * 3, answers, strict=True):
            require(bool(answer), "an answer has no tokens")
            logits = self._reference.answer_logits(prompt, answer)
            behind = logits.max(-1) - logits[np.arange(len(answer)), answer]
            noise = prompt.noise * float(np.sqrt((logits**2).mean()))
            worst = max(worst, float(behind.max()) / noise)
        # Logits are off by a few standard deviations at most among so many.
        require(worst <= 8 * ALLOWED_NOISE, f"a token was {worst:.1f} times torch's noise behind the best one")
        return f"{len(answers)} answers; the worst token was {worst:.1f} times torch's noise behind the best one"


def ask_all(batcher: Batcher, requests: list[GenerationRequest]) -> list[list[int]]:
    outputs, done = [[] for _ in requests], threading.Semaphore(0)

    def collector(found: list) -> Callable:
        def collect(output) -> None:
            found.append(output)
            if isinstance(output, Exception) or output.finish_reason:
                done.release()
        return collect

    for request, found in zip(requests, outputs, strict=True):
        batcher.submit(request, collector(found))
    for _ in requests:
        done.acquire()
    for found in outputs:
        if isinstance(found[-1], Exception):
            raise found[-1]
    return [[token for output in found for token in output.token_ids.tolist()] for found in outputs]
