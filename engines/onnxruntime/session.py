"""ONNX Runtime sessions with this project's options."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime

from qwen3vl.errors import ArtifactError


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """Options for every session: `threads` compute threads, by default one for each core this process may use.

    Threads sleep when they wait: several engines and Triton share the cores, and spinning ones would starve them.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def load_session(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Load an engine.

    Raises:
        ArtifactError: the file is missing or ONNX Runtime refuses it.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist: build it with `qwen3vl build {path.parent.parent}`")
    try:
        return onnxruntime.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}; rebuild it with "
                            f"`qwen3vl build {path.parent.parent}`") from error
