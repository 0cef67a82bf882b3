"""The vision encoder on ONNX Runtime."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from engines.onnxruntime.cuda_session import load_cuda_engine
from engines.onnxruntime.session import load_engine, session_options
from engines.vision_frames import CALL_PATCHES, FrameEncoder, Grid


class VisionEncoder(FrameEncoder):
    """Encodes prepared patches to visual rows. The engine is loaded with the first image, not before.

    Args:
        engine_dir: the `engines/` folder of a build.
        threads: compute threads on a CPU; by default one for each core.
        on_gpu: whether the engine is one for a GPU.
    """

    def __init__(self, engine_dir: Path, threads: int | None = None, *, on_gpu: bool = False):
        super().__init__(engine_dir)
        self._engine_dir, self._threads, self._on_gpu = engine_dir, threads, on_gpu
        self._session, self._loading = None, threading.Lock()

    @property
    def loaded(self) -> bool:
        return self._session is not None

    def frames_per_call(self, patches: int) -> int:
        return max(1, CALL_PATCHES // patches)

    def encode_frames(self, grid: Grid, patches: np.ndarray) -> np.ndarray:
        inputs = {"patches": patches, **self.grid_inputs(grid)}
        return self._loaded_session().run(["visual_rows"], inputs)[0]

    def _loaded_session(self):
        with self._loading:
            if self._session is None:
                self._session = (load_cuda_engine(self._engine_dir / "vision_encoder") if self._on_gpu else
                                 load_engine(self._engine_dir, "vision_encoder", session_options(self._threads)))
            return self._session
