"""Portable artifacts to the engines of a target."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from engines.description import EngineDescription
from engines.onnxruntime.build import build_engine
from engines.onnxruntime.cuda_build import CudaBuildOptions, build_cuda_vision_engine
from engines.onnxruntime.cuda_decoder_build import build_cuda_decoder
from engines.tensorrt.build import TensorRTOptions, build_vision_engine
from engines.trtllm.build import build_decoder
from engines.trtllm.options import TrtllmBuildOptions
from export.build_folder import BuildFolder
from export.precision import wide_precision
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError

TARGETS = ("cpu", "cuda", "tensorrt", "trtllm")
ENGINES = ("vision_encoder", "decoder")


def build_engines(folder: Path, target: str = "cpu", engines: Sequence[str] = ENGINES,
                  tensorrt: TensorRTOptions | None = None, trtllm: TrtllmBuildOptions | None = None,
                  cuda: CudaBuildOptions | None = None) -> None:
    """Make `folder/engines/` from what was exported; engines whose inputs have not changed are skipped.

    Args:
        folder: the build folder.
        target: what the engines run on. With `tensorrt`, the decoder's stays that of ONNX Runtime on the CPU; with
            `trtllm`, the vision encoder's is TensorRT's.
        engines: which of `ENGINES` to make.
        tensorrt: how to build the vision encoder for the targets `tensorrt` and `trtllm`.
        trtllm: how to build the decoder for the target `trtllm`.
        cuda: how to build both for the target `cuda`.

    Raises:
        ArtifactError: there is no export in the folder, or an engine cannot be built.
    """
    build = BuildFolder(folder)
    if "config" not in build.manifest:
        raise ArtifactError(f"{folder} holds no export: run `qwen3vl export CHECKPOINT -o {folder}` first")
    with build.locked():
        made = [name for name in engines if _build_engine(build, name, target, tensorrt or TensorRTOptions(),
                                                          trtllm or TrtllmBuildOptions(), cuda or CudaBuildOptions())]
        description = EngineDescription(ModelConfig.from_dict(build.manifest["config"]), target,
                                        build.manifest["precision"])
        build.artifact("engines/engine.json", description.to_dict(), description.save)
        build.manifest["target"] = target
        build.save()
    if not made:
        print(f"engines of {folder} are up to date", file=sys.stderr)


def _build_engine(build: BuildFolder, name: str, target: str, tensorrt: TensorRTOptions,
                  trtllm: TrtllmBuildOptions, cuda: CudaBuildOptions) -> bool:
    if target in ("tensorrt", "trtllm") and name == "vision_encoder":
        return build_vision_engine(build, tensorrt)
    if target == "trtllm":
        return build_decoder(build, trtllm)
    if name == "vision_encoder":
        build.manifest.pop("tensorrt", None)
    if target == "cuda":
        return (build_cuda_vision_engine(build, cuda) if name == "vision_encoder" else
                build_cuda_decoder(build, cuda.decoder_kernels))
    if wide_precision(build.manifest["precision"]) == "bf16":
        raise ArtifactError(f"ONNX Runtime has no bf16 kernels for the CPU, so engines/{name} cannot be made here: "
                            "export with --precision fp32 or fp16, build with --target cuda, or make the vision "
                            "encoder's engine alone with --target tensorrt and --engine vision_encoder")
    return build_engine(build, name)
