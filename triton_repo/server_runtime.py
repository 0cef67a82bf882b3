"""The private folder of a running server, and what else it leaves on the machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

# A private folder is named by this, the process that made it, and something random.
RUNTIME_PREFIX = "qwen3vl-serve-"
SHARED_MEMORY = Path("/dev/shm")


def make_runtime() -> Path:
    """A new folder of this process's; shared memory that begins with its name belongs to it."""
    return Path(tempfile.mkdtemp(prefix=f"{RUNTIME_PREFIX}{os.getpid()}-"))


def remove_runtime(folder: Path) -> None:
    """Remove a server's private folder, and the shared memory that is named after it."""
    for file in SHARED_MEMORY.glob(f"{folder.name}-*"):
        file.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove what processes left that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{RUNTIME_PREFIX}*-*"):
        owner = folder.name.removeprefix(RUNTIME_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            remove_runtime(folder)
