"""Serving without Triton: preparation, vision encoder and batcher in this process."""

from __future__ import annotations

import queue
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from engines.batching.batcher import Batcher
from engines.batching.request import GenerationRequest
from engines.fidelity.cases import picture
from engines.onnxruntime.vision_encoder import VisionEncoder
from qwen3vl.processor import ModelInputs, Processor
from qwen3vl.sampling import SamplingParams
from triton_repo.build_paths import BuildPaths


class InProcess:
    """The engines of a build, called directly; use it as a context manager."""

    def __init__(self, build: Path, slots: int):
        limits = BuildPaths(build).limits()
        self.processor = Processor.from_checkpoint(build / "processor", limits)
        self.vision = VisionEncoder(build / "engines")
        self.batcher = Batcher(build / "engines", limits, slots)

    def stream(self, messages: list, images: list[bytes], max_tokens: int) -> Iterator[int]:
        """Serve one request, from encoded images to the last token."""
        inputs = self.processor(messages=messages, images=images)
        rows = self.vision.encode(inputs.patches, inputs.grids)
        request = GenerationRequest(inputs.token_ids, inputs.position_ids, inputs.rope_delta, rows,
                                    SamplingParams(max_tokens=max_tokens))
        outputs: queue.SimpleQueue = queue.SimpleQueue()
        self.batcher.submit(request, outputs.put)
        while True:
            output = outputs.get()
            if isinstance(output, Exception):
                raise output
            yield output.completion_tokens
            if output.finish_reason:
                return

    def vision_seconds(self, side: int, repeats: int) -> float:
        """Median seconds to encode one prepared square picture of `side` pixels."""
        inputs = self.vision_inputs(side)
        self.vision.encode(inputs.patches, inputs.grids)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            self.vision.encode(inputs.patches, inputs.grids)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def vision_inputs(self, side: int) -> ModelInputs:
        """A request with one square picture of `side` pixels."""
        messages = [{"role": "user", "content": [{"type": "image"}]}]
        return self.processor(messages=messages, images=[picture(side, side, seed=0)])

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.batcher.close()
