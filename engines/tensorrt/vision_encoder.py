"""The vision encoder on TensorRT."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from engines.tensorrt.arrays import GpuArray
from engines.tensorrt.profiles import choose_profile, frames_per_call
from engines.tensorrt.record import EngineRecord
from engines.tensorrt.runner import EngineRunner
from engines.vision_frames import FrameEncoder, Grid
from qwen3vl.errors import InvalidRequest


class VisionEncoder(FrameEncoder):
    """Encodes prepared patches to visual rows. The engine is loaded with the first image, not before.

    Args:
        engine_dir: the `engines/` folder of a build for the target `tensorrt`.

    Raises:
        ArtifactError: the folder holds no TensorRT engine. What is wrong with the GPU or the library shows when the
            engine is loaded.
    """

    def __init__(self, engine_dir: Path):
        super().__init__(engine_dir)
        self._folder = engine_dir / "vision_encoder"
        self.record = EngineRecord.load(self._folder)
        self._runner: EngineRunner | None = None
        self._loading = threading.Lock()

    @property
    def loaded(self) -> bool:
        return self._runner is not None

    def frames_per_call(self, patches: int) -> int:
        return frames_per_call(self.record.profiles, patches)

    def validate(self, patches: np.ndarray, grids: np.ndarray) -> None:
        super().validate(patches, grids)
        side = self.config.vision.patch_size
        largest = max(profile.patches.max for profile in self.record.profiles)
        for _, rows, columns in grids.tolist():
            if self.frames_per_call(rows * columns) == 0:
                raise InvalidRequest(
                    f"an image or frame of {columns * side}x{rows * side} pixels after preparation "
                    f"({columns * rows * side**2} in all) is beyond the vision engine's largest, "
                    f"{largest * side**2} pixels: send a smaller one, lower size.longest_edge in the build's "
                    "processor/preprocessor_config.json, or build with a larger --max-image-pixels")

    def encode_frames(self, grid: Grid, patches: np.ndarray) -> np.ndarray:
        inputs, profile = self._call(grid, patches)
        return self._loaded_runner().run(inputs, profile)["visual_rows"]

    def encode_on_gpu(self, grid: Grid, patches: object) -> GpuArray:
        """As `encode_frames`, for patches that may be on the GPU; the rows stay there until the next call.

        Args:
            patches: uint8 [F, P, patch_dim], a numpy array or any array with DLPack or `__cuda_array_interface__`.
        """
        inputs, profile = self._call(grid, patches)
        return self._loaded_runner().run_on_gpu(inputs, profile)["visual_rows"]

    def _call(self, grid: Grid, patches) -> tuple[dict[str, object], int]:
        """The inputs of one call and its profile."""
        frames, size = patches.shape[0], grid[0] * grid[1]
        if patches.shape[1] != size:
            raise ValueError(f"frames have {patches.shape[1]} patches, expected {size}, the grid's {grid[0]}x{grid[1]}")
        profile = choose_profile(self.record.profiles, frames, size)
        if profile is None:
            raise ValueError(f"{frames} frames of {grid[0]}x{grid[1]} patches in one call, expected at most "
                             f"{self.frames_per_call(size)}")
        return {"patches": patches, **self.grid_inputs(grid)}, profile

    def _loaded_runner(self) -> EngineRunner:
        with self._loading:
            if self._runner is None:
                self._runner = EngineRunner(self._folder)
            return self._runner
