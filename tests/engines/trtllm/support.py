"""Checkpoints and builds for the tests of the TensorRT-LLM engine."""

from __future__ import annotations

import _ctypes
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from client.cli import main
from export.trtllm.exporter import export_trtllm
from export.trtllm.options import TrtllmOptions
from export.trtllm.parallel import Parallelism
from qwen3vl.processor import ModelInputs, Processor
from tests.engines.trtllm.stand_in.install import install
from tests.engines.trtllm.stand_in.tensorrt import REGISTRY, register_deepstack_add
from tests.support.checkpoints import make_checkpoint
from tests.support.pictures import gif, png
from tests.support.processor_folder import add_processor_files
from tests.support.reference_model import ReferenceModel

# A file that the loader takes; what a plugin's library registers when it is loaded is registered by the fixture.
LIBRARY = Path(_ctypes.__file__)
# 8 query heads on 2 key-value heads and 301 words: both repeated and padded with 4 GPUs.
SHAPE = {"num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 301}
LENGTH = 512
ANSWER = 4


@dataclass(frozen=True)
class Case:
    """A request and what transformers makes of it: visual rows [R, H], logits [S, vocabulary], greedy tokens."""

    inputs: ModelInputs
    rows: torch.Tensor
    logits: torch.Tensor
    answer: list[int]


def quiet_queries(folder: Path, factor: float = 0.002) -> Path:
    """Make queries and keys so small that the epsilon of their norms matters."""
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = (weights[name] * factor).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_case_checkpoint(folder: Path, **shape) -> Path:
    checkpoint = make_checkpoint(folder, dtype=torch.bfloat16, **{"text": SHAPE, **shape})
    return quiet_queries(add_processor_files(checkpoint))


def make_cases(checkpoint: Path) -> list[Case]:
    """Text alone; images and a video; an image."""
    processor, reference, cases = Processor.from_checkpoint(checkpoint), ReferenceModel(checkpoint), []
    for kinds, images, videos, text in (
            ((), (), (), "Hello."),
            (("image", "video", "image"), (png(6, 64, 64), png(7, 96, 96)), (gif(8, frames=4, size=64),), "Compare."),
            (("image",), (png(9, 64, 128),), (), "What?")):
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]
        inputs = processor(messages=[{"role": "user", "content": content}], images=list(images), videos=list(videos))
        rows = reference.visual_rows(inputs).flatten(0, 1) if kinds else torch.zeros(0, 64)
        of_video = tuple(index for index, kind in enumerate(kinds) if kind == "video")
        cases.append(Case(inputs, rows, reference.logits(inputs, of_video),
                          reference.generate(inputs, ANSWER, of_video)))
    return cases


def export_checkpoint(checkpoint: Path, folder: Path, parallelism: Parallelism | None = None, **options) -> Path:
    export_trtllm(checkpoint, folder, TrtllmOptions(parallelism or Parallelism(), max_length=LENGTH, **options))
    return folder


class GpuOfTheBuild:
    compute_capability = "9.0"


def use_stand_in(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """TensorRT-LLM's stand-in, a GPU that is only asked for its kind, and the plugin as if its library were loaded."""
    install(monkeypatch, **versions)
    monkeypatch.setattr("engines.trtllm.build.Gpu", GpuOfTheBuild)
    monkeypatch.setattr(REGISTRY, "creators", {})
    register_deepstack_add()


def build(folder: Path, *options: str, plugin: bool | Path = False) -> int:
    """`qwen3vl build --target trtllm` for the decoder; `plugin` may name another library."""
    how = ["--plugin", str(LIBRARY if plugin is True else plugin)] if plugin else ["--no-plugin"]
    return main(["build", str(folder), "--target", "trtllm", "--engine", "decoder", *how, "--max-batch", "4",
                 "--max-visual-tokens", "64", *options])
