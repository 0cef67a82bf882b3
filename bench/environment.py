"""What a measurement ran on, for its record."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("qwen3vl-triton", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "nvidia-pytriton", "torch",
            "transformers", "tritonclient")


def describe_machine() -> dict:
    """Date (UTC), processor, cores, memory in bytes and package versions."""
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "processor": model,
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "python": platform.python_version(), "versions": versions}
