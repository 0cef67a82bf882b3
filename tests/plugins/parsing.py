"""Parsing with TensorRT-RTX in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir

ROOT = Path(__file__).parents[2]


def parse(model: ir.Model, folder: Path, library_folder: Path, *options: str, preload: Path | None = None) -> dict:
    """What parse_with_tensorrt_rtx.py prints of the model; `preload` is a plugin library to load first."""
    path = folder / "model.onnx"
    ir.save(model, path)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library_folder), "LD_PRELOAD": str(preload or "")}
    command = [sys.executable, "-m", "tests.plugins.parse_with_tensorrt_rtx", path, *options]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
