"""Does what a server will load fit the GPU? Asked before it starts."""

from __future__ import annotations

from engines.description import EngineDescription
from engines.onnxruntime.cuda_memory import require_gpu_memory
from engines.onnxruntime.cuda_record import RECORD_FILE, CudaDecoderRecord
from triton_repo.build_paths import BuildPaths
from triton_repo.config_pbtxt import CONFIG_FILE, read_config
from triton_repo.device_rows import gpu_bytes, stay_on_gpu
from triton_repo.roles import Role

# Activations of the vision encoder, and CUDA's context in its process. An allowance, not a measurement.
VISION_BYTES = 2 << 30


def require_memory(build: BuildPaths, role: Role) -> None:
    """Check the decoder of the target `cuda`; others plan their memory themselves, or have the host's.

    Raises:
        ArtifactError: there is no GPU, or too little of its memory is free.
    """
    folder = build.engines / "decoder"
    if "decoder" not in role.engines or not (folder / RECORD_FILE).is_file():
        return
    parameters = read_config(build.repository(role) / "decoder" / CONFIG_FILE).parameters
    config = EngineDescription.load(build.engines).config
    beside = _vision_bytes(build, role) + (gpu_bytes(config, role) if stay_on_gpu(build, role) else 0)
    require_gpu_memory(CudaDecoderRecord.load(folder), config, int(parameters["slots"].string_value),
                       build.limits().total_tokens, beside)


def _vision_bytes(build: BuildPaths, role: Role) -> int:
    """What the vision encoder will take of the same GPU once there is an image."""
    if "vision_encoder" not in role.engines:
        return 0
    return VISION_BYTES + sum(file.stat().st_size for file in (build.engines / "vision_encoder").iterdir())
