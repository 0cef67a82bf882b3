"""The GPU that a measurement ran on."""

from __future__ import annotations

import shutil
import subprocess

FIELDS = ("name", "driver_version", "memory.total", "memory.used")


def describe_gpu() -> dict[str, str] | None:
    """Of the first GPU, as nvidia-smi says; None without one."""
    if not shutil.which("nvidia-smi"):
        return None
    said = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"],
                          capture_output=True, text=True, check=False, timeout=30)
    if said.returncode:
        return None
    return dict(zip(FIELDS, said.stdout.splitlines()[0].split(", "), strict=True))
