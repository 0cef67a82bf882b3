"""Portable artifacts to the engines of a target."""

from __future__ import annotations

import sys
from pathlib import Path

from engines.description import EngineDescription
from engines.onnxruntime.build import build_engine
from export.build_folder import BuildFolder
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError

TARGETS = ("cpu",)


def build_engines(folder: Path, target: str = "cpu") -> None:
    """Make `folder/engines/` from `folder/onnx/`; engines whose inputs have not changed are skipped.

    Raises:
        ArtifactError: there is no export in the folder, or an engine cannot be built.
    """
    build = BuildFolder(folder)
    if "config" not in build.manifest:
        raise ArtifactError(f"{folder} holds no export: run `qwen3vl export CHECKPOINT -o {folder}` first")
    with build.locked():
        made = [name for name in ("vision_encoder", "decoder") if build_engine(build, name)]
        description = EngineDescription(ModelConfig.from_dict(build.manifest["config"]), target,
                                        build.manifest["precision"])
        build.artifact("engines/engine.json", description.to_dict(), description.save)
        build.manifest["target"] = target
        build.save()
    if not made:
        print(f"engines of {folder} are up to date", file=sys.stderr)
