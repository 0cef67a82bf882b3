"""`engines/engine.json`: what the engines beside it were built from and for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.record_file import read_record
from qwen3vl.config import ModelConfig

FILE_NAME = "engine.json"
FORMAT = 1


@dataclass(frozen=True)
class EngineDescription:
    """Attributes: `config` of the model; `target` and `precision` as given to the build."""

    config: ModelConfig
    target: str
    precision: str

    def to_dict(self) -> dict:
        return {"format": FORMAT, **asdict(self)}

    def folder(self, engine: str) -> str:
        """Name of an engine's folder beside `engine.json`."""
        return "trtllm" if self.target == "trtllm" and engine == "decoder" else engine

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, engine_dir: Path) -> EngineDescription:
        """Read the description of an `engines/` folder.

        Raises:
            ArtifactError: there is none, or another version of this toolkit wrote it.
        """
        values = read_record(engine_dir / FILE_NAME, FORMAT, f"`qwen3vl build {engine_dir.parent}`")
        return cls(**{**values, "config": ModelConfig.from_dict(values["config"])})
