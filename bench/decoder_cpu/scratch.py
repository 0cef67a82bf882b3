"""Made-up checkpoints of the real width and builds of them, in a folder that is deleted afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import Qwen3VLMoeConfig

from bench.decoder_cpu.overlapping_checkpoint import write_overlapping_checkpoint
from bench.synthetic_checkpoint import config_30b_a3b, write_checkpoint
from engines.builder import build_engines
from export.build_folder import BuildFolder
from export.exporter import export

PROCESSOR = Path(__file__).parent.parent.parent / "models/tiny-shapes"
PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json",
                   "video_preprocessor_config.json", "generation_config.json")
DONE = "done"


def shapes_of_30b_a3b(layers: int) -> Qwen3VLMoeConfig:
    return config_30b_a3b(layers=layers, vision_depth=2)


class Scratch:
    """Makes what is missing in `folder`; what is there is used again.

    Args:
        config: the model with so many layers.
    """

    def __init__(self, folder: Path, config: Callable[[int], Qwen3VLMoeConfig] = shapes_of_30b_a3b):
        self.folder, self._config = folder, config

    def checkpoint(self, layers: int) -> Path:
        """So many decoder layers, random weights in bf16, as `transformers` reads them."""
        folder = self.folder / f"checkpoint-{layers}"
        if not (folder / DONE).exists():
            write_checkpoint(folder, self._config(layers), seed=0)
            (folder / DONE).touch()
        return folder

    def build(self, precision: str, layers: int) -> Path:
        """The decoder's engine of so many layers with random weights. The export it was made from is deleted."""
        folder = self.folder / f"{precision}-{layers}"
        if not (folder / DONE).exists():
            source = self.folder / f"source-{layers}"
            write_overlapping_checkpoint(source, self._config(layers), seed=0)
            for name in PROCESSOR_FILES:
                shutil.copy(PROCESSOR / name, source)
            export(source, folder, precision)
            build_engines(folder, engines=["decoder"])
            shutil.rmtree(source)
            shutil.rmtree(folder / "onnx")
            (folder / DONE).touch()
        return folder


def text_config(build: Path) -> dict:
    """The text half of a build's configuration."""
    return BuildFolder(build).manifest["config"]["text"]
