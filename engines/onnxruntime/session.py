"""ONNX Runtime sessions with this project's options."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime

from engines.onnxruntime.mapped_pages import release_mapped_pages
from qwen3vl.errors import ArtifactError

ENGINE_FILE, WEIGHTS_FILE = "engine.onnx", "weights.bin"


def session_options(threads: int | None = None, spin_microseconds: int = 0) -> onnxruntime.SessionOptions:
    """Options for every session.

    Args:
        threads: compute threads, by default one for each core this process may use.
        spin_microseconds: how long threads spin for the next operator before they sleep. Several engines and Triton
            share the cores, and threads that spin without limit would starve them.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin_microseconds else "0")
    if spin_microseconds:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(spin_microseconds))
    return options


def load_engine(engine_dir: Path, name: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Load `<engine_dir>/<name>/engine.onnx`. Errors as in `load_session`.

    Loading reads what running does not: scales and zero points go into the kernels' layout of integers, which has its
    own copy of them. So all pages of weights are given back, and those that are needed are mapped again.
    """
    session = load_session(engine_dir / name / ENGINE_FILE, options)
    release_mapped_pages(engine_dir / name / WEIGHTS_FILE)
    return session


def load_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Load a graph on the CPU.

    Raises:
        ArtifactError: the file is missing or ONNX Runtime refuses it.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist: run `qwen3vl build` on its build folder")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}; run `qwen3vl build` "
                            "on its build folder again") from error
