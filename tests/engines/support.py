"""Prepared requests for engine tests, from generated pictures."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from engines.batching.batcher import Batcher
from engines.batching.request import Emission, GenerationRequest, Ticket
from engines.fidelity.cases import animation, picture
from engines.onnxruntime.vision_encoder import VisionEncoder
from export.exporter import export
from qwen3vl.processor import ModelInputs, Processor
from qwen3vl.sampling import SamplingParams


def export_precisions(checkpoint: Path, folders: pytest.TempPathFactory) -> dict[str, Path]:
    """Precision -> build folder, for all that keep weights as floating-point numbers."""
    builds = {precision: folders.mktemp(precision) for precision in ("fp32", "fp16", "bf16")}
    for precision, folder in builds.items():
        export(checkpoint, folder, precision)
    return builds


def make_inputs(build: Path) -> dict[str, ModelInputs]:
    """One request of each kind."""
    processor = Processor.from_checkpoint(build / "processor")

    def prepare(*content: str, images: tuple[bytes, ...] = (), videos: tuple[bytes, ...] = ()) -> ModelInputs:
        parts = [{"type": part} if part in ("image", "video") else {"type": "text", "text": part} for part in content]
        return processor(messages=[{"role": "user", "content": parts}], images=images, videos=videos)

    return {
        "text": prepare("hello there"),
        "image": prepare("image", "what?", images=(picture(96, 64, 1),)),
        "images": prepare("image", "or", "image", images=(picture(64, 96, 2), picture(128, 64, 3))),
        "video": prepare("video", "moves?", videos=(animation(64, 64, 4, 4),)),
    }


def make_request(vision: VisionEncoder, inputs: ModelInputs, **sampling) -> GenerationRequest:
    rows = vision.encode(inputs.patches, inputs.grids)
    return GenerationRequest(inputs.token_ids, inputs.position_ids, inputs.rope_delta, rows, SamplingParams(**sampling))


@dataclass
class Answer:
    """Collects what the batcher sends for one request."""

    outputs: list[Emission | Exception] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    ticket: Ticket | None = None

    def __call__(self, output: Emission | Exception) -> None:
        self.outputs.append(output)
        self.started.set()
        if isinstance(output, Exception) or output.finish_reason:
            self.done.set()

    def wait(self) -> list[Emission]:
        assert self.done.wait(60), "no answer within a minute"
        for output in self.outputs:
            if isinstance(output, Exception):
                raise output
        return self.outputs

    def ids(self) -> list[int]:
        return np.concatenate([output.token_ids for output in self.wait()]).tolist()


def ask(batcher: Batcher, request: GenerationRequest) -> Answer:
    answer = Answer()
    answer.ticket = batcher.submit(request, answer)
    return answer
