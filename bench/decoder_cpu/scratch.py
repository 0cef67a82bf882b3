"""Made-up checkpoints of the real width and builds of them, in a folder that is deleted afterwards."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from bench.synthetic_checkpoint import config_30b_a3b, write_checkpoint
from engines.builder import build_engines
from export.build_folder import BuildFolder
from export.exporter import export

PROCESSOR = Path(__file__).parent.parent.parent / "models/tiny-shapes"
PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json",
                   "video_preprocessor_config.json", "generation_config.json")
WEIGHTS = "model.safetensors"


class Scratch:
    """Attributes: `folder`, and `layers` of its one checkpoint, of which any first few can be had."""

    def __init__(self, folder: Path, layers: int):
        self.folder, self.layers = folder, layers

    def checkpoint(self, layers: int) -> Path:
        """The first `layers` decoder layers, random weights in bf16; a link to the one file of weights."""
        weights, folder = self._weights(), self.folder / f"checkpoint-{layers}"
        folder.mkdir(exist_ok=True)
        config_30b_a3b(layers=layers, vision_depth=2).save_pretrained(folder)
        for name in PROCESSOR_FILES:
            shutil.copy(PROCESSOR / name, folder)
        if not (folder / WEIGHTS).exists():
            os.link(weights, folder / WEIGHTS)
        return folder

    def build(self, precision: str, layers: int) -> Path:
        """The decoder's engine in `precision`."""
        folder = self.folder / f"{precision}-{layers}"
        export(self.checkpoint(layers), folder, precision)
        build_engines(folder, engines=["decoder"])
        return folder

    def discard(self, build: Path) -> None:
        shutil.rmtree(build)

    def parameters(self, build: Path) -> dict:
        """The text half of a build's configuration."""
        return BuildFolder(build).manifest["config"]["text"]

    def _weights(self) -> Path:
        whole = self.folder / "weights"
        if not (whole / "done.json").exists():
            size = write_checkpoint(whole, config_30b_a3b(layers=self.layers, vision_depth=2), seed=0)
            (whole / "done.json").write_text(json.dumps({"layers": self.layers, "bytes": size}))
        found = json.loads((whole / "done.json").read_text())["layers"]
        if found != self.layers:
            raise SystemExit(f"{whole} holds {found} layers, expected {self.layers}: delete it or choose another "
                             "folder")
        return whole / WEIGHTS
