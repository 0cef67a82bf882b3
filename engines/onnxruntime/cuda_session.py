"""ONNX Runtime sessions on a GPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from engines.onnxruntime.session import ENGINE_FILE, session_options
from qwen3vl.errors import ArtifactError

PROVIDER = "CUDAExecutionProvider"
# The library of plugins/vision_kernels, in the folder of an engine that was built with it.
KERNEL_LIBRARY = "libvision_kernels.so"


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was made for GPUs; whether there is one shows when a session is loaded."""
    return PROVIDER in onnxruntime.get_available_providers()


def load_cuda_engine(folder: Path, provider_options: dict[str, str] | None = None) -> onnxruntime.InferenceSession:
    """Load `<folder>/engine.onnx` on the GPU, with the kernel library beside it if there is one.

    Args:
        provider_options: of ONNX Runtime's CUDA provider.

    Raises:
        ArtifactError: there is no such engine, no GPU, or ONNX Runtime refuses it.
    """
    path, library = folder / ENGINE_FILE, folder / KERNEL_LIBRARY
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist: run `qwen3vl build --target cuda` on its build folder")
    if not has_cuda():
        raise ArtifactError(f"{path} is for a GPU, but the installed ONNX Runtime {onnxruntime.__version__} has no "
                            f"{PROVIDER}: install onnxruntime-gpu instead of onnxruntime")
    options = session_options(threads=1)
    try:
        if library.is_file():
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
