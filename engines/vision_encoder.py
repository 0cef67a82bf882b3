"""The vision encoder of a build, on whichever engine it was built for."""

from __future__ import annotations

from pathlib import Path

from engines.description import EngineDescription
from engines.tensorrt.record import RECORD_FILE
from engines.vision_frames import FrameEncoder


def vision_encoder(engine_dir: Path, threads: int | None = None) -> FrameEncoder:
    """The adapter that fits the engine in the `engines/` folder of a build.

    Args:
        engine_dir: that folder.
        threads: compute threads of an engine that runs on the CPU; by default one for each core.

    Raises:
        ArtifactError: the folder holds no engines, or those of another version.
    """
    if (engine_dir / "vision_encoder" / RECORD_FILE).exists():
        from engines.tensorrt.vision_encoder import VisionEncoder

        return VisionEncoder(engine_dir)
    from engines.onnxruntime.vision_encoder import VisionEncoder

    return VisionEncoder(engine_dir, threads, on_gpu=EngineDescription.load(engine_dir).target == "cuda")
