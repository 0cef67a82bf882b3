"""The decoders that can be checked: each gives prefill logits, whole and in chunks, and greedy tokens."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import numpy as np

from engines.batching.batcher import Batcher
from engines.batching.request import GenerationRequest
from engines.description import EngineDescription
from qwen3vl.limits import Limits


class CheckedDecoder(Protocol):
    """Attributes: `chunk_tokens`, the size of its chunks."""

    chunk_tokens: int

    def prefill(self, request: GenerationRequest, chunked: bool = False) -> np.ndarray:
        """Logits of the prompt, float32 [S, V]."""

    def greedy(self, request: GenerationRequest) -> list[int]:
        """At most `request.sampling.max_tokens` tokens, an end token not among them."""

    def close(self) -> None:
        """Free the engine."""


def checked_decoder(build: Path, limits: Limits) -> CheckedDecoder:
    """The decoder of a build."""
    if EngineDescription.load(build / "engines").target == "trtllm":
        from engines.trtllm.executor.checked_decoder import TrtllmDecoder

        return TrtllmDecoder(build)
    return OnnxRuntimeDecoder(build, limits)


class OnnxRuntimeDecoder:
    chunk_tokens = 16

    def __init__(self, build: Path, limits: Limits):
        self._batcher = Batcher(build / "engines", limits, slots=2)
        self._decoder = self._batcher.decoder  # free between two answers

    def prefill(self, request: GenerationRequest, chunked: bool = False) -> np.ndarray:
        length, logits = len(request.token_ids), []
        step = self.chunk_tokens if chunked else length
        for start in range(0, length, step):
            end = min(start + step, length)
            logits.append(self._decoder.prefill(
                0, request.token_ids[start:end], request.position_ids[:, start:end], request.visual_rows, start,
                np.arange(end - start, dtype=np.int32)))
        return np.concatenate(logits)

    def greedy(self, request: GenerationRequest) -> list[int]:
        done, outputs = threading.Event(), []

        def collect(output) -> None:
            outputs.append(output)
            if isinstance(output, Exception) or output.finish_reason:
                done.set()

        self._batcher.submit(request, collect)
        done.wait()
        if isinstance(outputs[-1], Exception):
            raise outputs[-1]
        return [token for output in outputs for token in output.token_ids.tolist()]

    def close(self) -> None:
        self._batcher.close()
