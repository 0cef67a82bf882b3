"""The vision encoder of a build, on whichever engine it was built for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.description import EngineDescription
from engines.onnxruntime import cuda_record
from engines.onnxruntime.device_memory import DeviceMemory
from engines.tensorrt.record import RECORD_FILE
from engines.vision_frames import FrameEncoder


def vision_encoder(engine_dir: Path, threads: int | None = None,
                   rows_memory: Callable[[], DeviceMemory | None] | None = None) -> FrameEncoder:
    """The adapter that fits the engine in the `engines/` folder of a build.

    Args:
        engine_dir: that folder.
        threads: compute threads of an engine that runs on the CPU; by default one for each core.
        rows_memory: gives the GPU memory that rows are to stay in, or None; only where `shares_a_gpu`.

    Raises:
        ArtifactError: the folder holds no engines, or those of another version.
    """
    if (engine_dir / "vision_encoder" / RECORD_FILE).exists():
        from engines.tensorrt.vision_encoder import VisionEncoder

        return VisionEncoder(engine_dir)
    from engines.onnxruntime.vision_encoder import VisionEncoder

    on_gpu = EngineDescription.load(engine_dir).target == "cuda"
    return VisionEncoder(engine_dir, threads, on_gpu=on_gpu, rows_memory=rows_memory)


def shares_a_gpu(engine_dir: Path) -> bool:
    """Whether vision encoder and decoder are both ONNX Runtime's for a GPU, so that rows can stay there between them.

    Raises:
        ArtifactError: as above.
    """
    return (EngineDescription.load(engine_dir).target == "cuda"
            and not (engine_dir / "vision_encoder" / RECORD_FILE).exists()
            and (engine_dir / "decoder" / cuda_record.RECORD_FILE).is_file())
