"""ONNX Runtime sessions on a GPU."""

from __future__ import annotations

import logging
from pathlib import Path

import onnxruntime

from engines.onnxruntime.session import ENGINE_FILE, load_session, session_options
from qwen3vl.errors import ArtifactError

log = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"
# The library of plugins/vision_kernels, in the folder of an engine that was built with it.
KERNEL_LIBRARY = "libvision_kernels.so"


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was made for GPUs; whether there is one shows when a session is loaded."""
    return PROVIDER in onnxruntime.get_available_providers()


def load_cuda_engine(folder: Path, provider_options: dict[str, str] | None = None,
                     options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    """Load `<folder>/engine.onnx` on the GPU, with the libraries of operators that are beside it.

    Args:
        provider_options: of ONNX Runtime's CUDA provider.
        options: of the session, for this one alone.

    Raises:
        ArtifactError: there is no such engine, no GPU, or ONNX Runtime refuses it.
    """
    path = folder / ENGINE_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist: run `qwen3vl build --target cuda` on its build folder")
    if not has_cuda():
        raise ArtifactError(f"{path} is for a GPU, but the installed ONNX Runtime {onnxruntime.__version__} has no "
                            f"{PROVIDER}: install onnxruntime-gpu instead of onnxruntime")
    options = options or session_options(threads=1)
    try:
        for library in sorted(folder.glob("lib*.so")):
            options.register_custom_ops_library(str(library))
        session = onnxruntime.InferenceSession(path, options, providers=[(PROVIDER, provider_options or {})])
    except Exception as error:
        raise ArtifactError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}; run `qwen3vl build` "
                            "on its build folder again") from error
    # Where CUDA cannot be used ONNX Runtime prints why and goes on with the CPU.
    if session.get_providers()[0] != PROVIDER:
        raise ArtifactError(f"ONNX Runtime cannot use the GPU for {path}; it says why above. It needs the NVIDIA "
                            "driver, and CUDA's and cuDNN's libraries of its versions on LD_LIBRARY_PATH")
    return session


def load_on(device: str, folder: Path, provider_options: dict[str, str] | None = None) -> onnxruntime.InferenceSession:
    """Load an engine of a decoder on "cuda" or "cpu". Options and errors as in `load_cuda_engine`."""
    if device == "cpu":
        return load_session(folder / ENGINE_FILE, session_options())
    return load_cuda_engine(folder, provider_options, _decoder_options())


def load_decoder_session(folder: Path, device: str, stream: int | None = None, *,
                         graphs: bool = True) -> onnxruntime.InferenceSession:
    """Load a decoder's engine for a GPU on "cuda", with CUDA graphs where ONNX Runtime can capture it, or on "cpu".

    Args:
        stream: what "cuda" computes on; by default one of the session's own.

    Errors as in `load_cuda_engine`.
    """
    on_stream = {} if stream is None else {"has_user_compute_stream": "1", "user_compute_stream": str(stream)}
    if device == "cpu" or not graphs:
        return load_on(device, folder, on_stream)
    try:
        return load_on(device, folder, {**on_stream, "enable_cuda_graph": "1"})
    except ArtifactError as error:
        session = load_on(device, folder, on_stream)
        log.warning("the decoder runs without CUDA graphs, so its steps take longer: %s", error)
        return session


def _decoder_options() -> onnxruntime.SessionOptions:
    options = session_options(threads=1)
    # Tens of gigabytes of weights, each allocated by itself: an arena would double as it grows.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # Chunks and tables have any size, and a plan would be kept for each of them.
    options.enable_mem_pattern = False
    return options
