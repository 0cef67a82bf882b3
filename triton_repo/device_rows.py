"""Visual rows that reach a server's decoder in the GPU's memory: whether, and in what memory.

A whole server's vision encoder leaves rows there, in memory of its own; a language server's puts those there that it
has fetched. Triton's Python backend copies them into the server's pool of GPU memory, which the models' processes share
by CUDA IPC, and from there once more for the decoder, for as long as its `execute` takes; the decoder copies them into
memory of its own. What does not fit the pool the server passes on in the host's memory.

Two faults of the backend (seen in 2.51) are gone round. It ends the whole server where it finds no byte of the pool
free for the first rows that a model gets: so `qwen3vl serve` refuses to go on without a pool, and a group of requests
takes half of it at most, for the decoder has begun to take rows before the next group is there. And what does not fit
the pool arrives as zeros where it goes to pinned memory of the host: so the server has none of that. A language server
has no groups: its rows take half of the pool at most within any quarter of a second.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from engines.cuda_sharing import sharing_problem
from engines.description import EngineDescription
from engines.onnxruntime import cuda_record
from engines.onnxruntime.device_memory import DeviceMemory, GpuMemory
from engines.vision_encoder import shares_a_gpu
from engines.vision_frames import CALL_PATCHES
from engines.visual_rows import DTYPE
from qwen3vl.config import ModelConfig
from triton_repo.build_paths import BuildPaths
from triton_repo.config_pbtxt import CONFIG_FILE, read_config
from triton_repo.roles import Role
from triton_repo.server_binary import DRIVER

log = logging.getLogger(__name__)

# What rows pass through, for a server whose decoder is ONNX Runtime's on a GPU, and its vision encoder if it has one.
DEVICE, HOST = PLACES = ("device", "host")
# The model parameter of vision_encoder that says so, and what Triton asks of a model that takes GPU tensors.
PLACE = "visual_rows"
GPU_INPUTS = {"FORCE_CPU_ONLY_INPUT_TENSORS": "no"}
# As many images of the largest size that shares a call are encoded together.
GROUP_IMAGES = 4
# Rows that wait for the decoder's first chunk of them.
WAITING_IMAGES = 8
# Rows of two groups of the vision encoder, or of one and the copies for the decoder.
POOL_IMAGES = 2 * GROUP_IMAGES
LEAST_POOL = 64 << 20  # Triton's own default
NO_PINNED_MEMORY, POOL = "--pinned-memory-pool-byte-size=0", "--cuda-memory-pool-byte-size=0:"
# CUDA's context in the server's process. An allowance, not a measurement.
SERVER_BYTES = 512 << 20
# Rows have left the pool for the decoder's own memory long before.
PASSING_SECONDS = 0.25


def image_bytes(config: ModelConfig) -> int:
    """Of the rows of as many patches as share a call of the vision encoder."""
    tokens = CALL_PATCHES // config.vision.spatial_merge_size**2
    return tokens * config.rows_per_token * config.text.hidden_size * DTYPE.itemsize


def waiting_bytes(config: ModelConfig) -> int:
    """Most that rows may take of the GPU until their prompt's first chunk; more wait in the host's memory."""
    return WAITING_IMAGES * image_bytes(config)


def pool_bytes(config: ModelConfig) -> int:
    """Of the server's pool of GPU memory."""
    return max(LEAST_POOL, POOL_IMAGES * image_bytes(config))


def group_bytes(config: ModelConfig) -> int:
    """Most that the rows of requests encoded together may take of the pool; others go through the host's memory."""
    return pool_bytes(config) // 2


def server_arguments(config: ModelConfig) -> list[str]:
    """What a tritonserver has to be told that passes rows on like this."""
    return [NO_PINNED_MEMORY, f"{POOL}{pool_bytes(config)}"]


def gpu_bytes(config: ModelConfig, role: Role) -> int:
    """All GPU memory that passing rows on takes, beside the engines' own."""
    # The process that fetches rows has a context too, and the rows of one request.
    fetching = group_bytes(config) + SERVER_BYTES if role is Role.LANGUAGE else 0
    return waiting_bytes(config) + pool_bytes(config) + SERVER_BYTES + fetching


def can_be_on_gpu(engine_dir: Path, role: Role) -> bool:
    """Whether a role's decoder can be given rows in the GPU's memory.

    Raises:
        ArtifactError: the folder holds no engines, or those of another version.
    """
    if role is Role.LANGUAGE:
        return (EngineDescription.load(engine_dir).target == "cuda"
                and (engine_dir / "decoder" / cuda_record.RECORD_FILE).is_file())
    return role is Role.BOTH and shares_a_gpu(engine_dir)


def stay_on_gpu(build: BuildPaths, role: Role) -> bool:
    """Whether a composed repository asks for it."""
    if role is Role.ENCODE:
        return False
    config = read_config(build.repository(role) / "vision_encoder" / CONFIG_FILE)
    return config.parameters[PLACE].string_value == DEVICE


class PoolShare:
    """Half of the server's pool, for rows that are passed on one request at a time.

    Args:
        limit: bytes of them within any `PASSING_SECONDS`.
        clock: seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._taken: deque[tuple[float, int]] = deque()

    def take(self, size: int) -> bool:
        """Whether so many bytes may be passed on now; if so they count as being."""
        now = self._clock()
        while self._taken and now - self._taken[0][0] >= PASSING_SECONDS:
            self._taken.popleft()
        if size + sum(taken for _, taken in self._taken) > self._limit:
            return False
        self._taken.append((now, size))
        return True


def open_rows_memory() -> DeviceMemory | None:
    """The GPU's memory, in a model's process, for rows to pass on; None, and why in the log, where that cannot be."""
    if problem := _problem(Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")):
        log.warning("visual rows go through the host's memory: %s", problem)
        return None
    return GpuMemory()


def _problem(server: list[str]) -> str:
    if NO_PINNED_MEMORY not in server or not any(argument.startswith(POOL) for argument in server):
        return f"the server was started without {NO_PINNED_MEMORY} and {POOL}SIZE: start it with `qwen3vl serve`"
    # The backend's process is started with CUDA's runtime if it was built for GPUs, whatever engine is loaded later.
    if "libcudart" not in Path("/proc/self/maps").read_text():
        return "this server's Python backend was built without GPU support"
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return f"{DRIVER}, by which this server's Python backend looks for the NVIDIA driver, cannot be loaded"
    # Within Triton, sys.executable is not an interpreter; its models have the environment of the first python3 on PATH.
    return sharing_problem(shutil.which("python3") or sys.executable)
