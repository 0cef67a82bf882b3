"""What tritonserver is told about GPUs that other processes compute on."""

from __future__ import annotations

from engines.description import EngineDescription
from engines.trtllm.record import RECORD_FILE, TrtllmRecord
from triton_repo.build_paths import BuildPaths
from triton_repo.device_rows import server_arguments, stay_on_gpu
from triton_repo.roles import Role


def gpu_arguments(build: BuildPaths, role: Role) -> list[str]:
    """How much GPU memory, and pinned memory of the host, the server itself takes.

    Visual rows that stay on the GPU pass through a pool of it. Beside a decoder that runs on several GPUs, in a worker
    for each, the server takes none: these are the arguments of NVIDIA's own launcher for this case
    (triton_backend/scripts/launch_triton_server.py).
    """
    description = EngineDescription.load(build.engines)
    if stay_on_gpu(build, role):
        return server_arguments(description.config)
    folder = build.engines / description.folder("decoder")
    if "decoder" not in role.engines or not (folder / RECORD_FILE).is_file():
        return []
    gpus = TrtllmRecord.load(folder).parallelism.world_size
    if gpus == 1:
        return []
    return ["--pinned-memory-pool-byte-size=0", "--enable-peer-access=false",
            *(f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(gpus))]
