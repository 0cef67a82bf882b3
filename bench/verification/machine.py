"""The machine and its software: what a report has to say, and what has to be there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from bench.environment import describe_machine
from bench.verification.step import Check
from engines.trtllm.checks import CONTAINER, VERSION

GPU_FIELDS = ("name", "compute_cap", "memory.total", "driver_version")
PACKAGES = ("tensorrt_llm", "tensorrt", "ml_dtypes", "polygraphy", "tokenizers", "safetensors")
TOOLS = {"cpu": (), "trtllm": ("tritonserver", "nvidia-smi")}


def describe() -> dict:
    """Processor, memory, packages, GPUs and the container's own versions."""
    found = describe_machine()
    for name in PACKAGES:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    container = {name: value for name in ("NVIDIA_TRITON_SERVER_VERSION", "TRITON_SERVER_VERSION", "TRT_VERSION",
                                          "CUDA_VERSION") if (value := os.environ.get(name))}
    return {**found, "gpus": gpus(), "container": container}


def gpus() -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU; nothing where there is none."""
    if not shutil.which("nvidia-smi"):
        return []
    result = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"],
                            capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines() if result.returncode == 0 else []
    return [dict(zip(GPU_FIELDS, map(str.strip, line.split(",")), strict=True)) for line in lines]


def checks(target: str) -> list[Check]:
    """Is there what the target needs?"""
    found = [Check(f"{tool} on PATH", bool(path := shutil.which(tool)), path or "no", "yes") for tool in TOOLS[target]]
    if target == "trtllm":
        installed = _version("tensorrt_llm")
        found += [Check("TensorRT-LLM", installed.partition("+")[0] == VERSION, installed, f"{VERSION} ({CONTAINER})"),
                  Check("GPUs", bool(gpus()), len(gpus()), "at least 1")]
    else:
        found.append(Check("ONNX Runtime", importlib.util.find_spec("onnxruntime") is not None, _version("onnxruntime"),
                           "any"))
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
