"""What tritonserver is told about GPUs that other processes compute on."""

from __future__ import annotations

from engines.description import EngineDescription
from engines.trtllm.record import RECORD_FILE, TrtllmRecord
from triton_repo.build_paths import BuildPaths
from triton_repo.roles import Role


def gpu_arguments(build: BuildPaths, role: Role) -> list[str]:
    """Arguments for a decoder that runs on several GPUs, in a worker for each: the server itself takes no memory there.

    They are those of NVIDIA's own launcher for this case (triton_backend/scripts/launch_triton_server.py).
    """
    folder = build.engines / EngineDescription.load(build.engines).folder("decoder")
    if "decoder" not in role.engines or not (folder / RECORD_FILE).is_file():
        return []
    gpus = TrtllmRecord.load(folder).parallelism.world_size
    if gpus == 1:
        return []
    return ["--pinned-memory-pool-byte-size=0", "--enable-peer-access=false",
            *(f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(gpus))]
