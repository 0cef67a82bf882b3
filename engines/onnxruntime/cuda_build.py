"""The vision encoder's graph to an engine for ONNX Runtime on a GPU, and options for both engines."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from engines.onnxruntime.build import WEIGHTS_FILE
from engines.onnxruntime.cuda_graph import fuse_for_cuda
from engines.onnxruntime.cuda_session import KERNEL_LIBRARY, has_cuda, load_cuda_engine
from engines.onnxruntime.session import ENGINE_FILE
from export.build_folder import BuildFolder, sha256
from export.precision import wide_precision
from plugins.vision_kernels.operators import HEAD_SIZES
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError

# Goes up when engines of the same graph come out differently.
RECIPE = 1
KERNEL_PRECISIONS = ("fp16", "bf16")


@dataclass(frozen=True)
class CudaBuildOptions:
    """Options of `qwen3vl build --target cuda`.

    Attributes:
        vision_kernels: the library of plugins/vision_kernels; None to use ONNX Runtime's own operators alone.
        decoder_kernels: that of plugins/decoder_kernels, alike.
    """

    vision_kernels: Path | None = None
    decoder_kernels: Path | None = None


def build_cuda_vision_engine(build: BuildFolder, options: CudaBuildOptions) -> bool:
    """Make `engines/vision_encoder/`: the fused graph, its weights and the kernel library; skip it if it is there.

    No GPU is needed. Where ONNX Runtime has CUDA the engine is loaded once, so that an engine made there is one that
    loads.

    Returns:
        Whether it was made now.

    Raises:
        ArtifactError: the graph is missing, there is no kernel library or the model does not suit it, or ONNX Runtime
            refuses the engine.
    """
    library = options.vision_kernels
    if library is not None:
        _require_suitable(build, library)
    source = build.path / "onnx/vision_encoder.onnx"
    key = {"graph": build.identity_of("onnx/vision_encoder.onnx"), "recipe": RECIPE, "target": "cuda",
           "vision_kernels": library and sha256(library)}

    def produce(folder: Path) -> None:
        started = time.monotonic()
        print("build engines/vision_encoder for ONNX Runtime with CUDA ...", end=" ", file=sys.stderr, flush=True)
        folder.mkdir()
        model = ir.load(source)
        fuse_for_cuda(model, kernels=library is not None)
        ir.save(model, folder / ENGINE_FILE, external_data=WEIGHTS_FILE)
        if library is not None:
            shutil.copyfile(library, folder / KERNEL_LIBRARY)
        if has_cuda():
            load_cuda_engine(folder)
        print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)

    return build.artifact("engines/vision_encoder", key, produce)


def _require_suitable(build: BuildFolder, library: Path) -> None:
    if not library.is_file():
        raise ArtifactError(f"{library} does not exist: make it with `cmake -S plugins/vision_kernels -B "
                            "build/vision_kernels -DONNXRUNTIME_ROOT=...` and `cmake --build build/vision_kernels`, or "
                            "leave --vision-kernels out")
    vision = ModelConfig.from_dict(build.manifest["config"]).vision
    precision = wide_precision(build.manifest["precision"])
    if vision.head_dim not in HEAD_SIZES or precision not in KERNEL_PRECISIONS:
        raise ArtifactError(f"the vision kernels are for heads of {' or '.join(map(str, HEAD_SIZES))} in "
                            f"{' or '.join(KERNEL_PRECISIONS)}, but this build has heads of {vision.head_dim} in "
                            f"{precision}: leave --vision-kernels out, or export with another --precision")
