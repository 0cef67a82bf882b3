"""The vision encoder on ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from engines.onnxruntime.cuda_session import load_cuda_engine
from engines.onnxruntime.device_memory import DeviceMemory
from engines.onnxruntime.session import load_engine, session_options
from engines.vision_frames import CALL_PATCHES, FrameEncoder, Grid
from engines.visual_rows import DTYPE, DeviceRows, VisualRows

OUTPUT = "visual_rows"


class VisionEncoder(FrameEncoder):
    """Encodes prepared patches to visual rows. The engine is loaded with the first image, not before.

    Args:
        engine_dir: the `engines/` folder of a build.
        threads: compute threads on a CPU; by default one for each core.
        on_gpu: whether the engine is one for a GPU.
        rows_memory: asked just before the engine is loaded for the memory of the engine's device that rows are to stay
            in; None, or a call that gives None, for arrays.
    """

    def __init__(self, engine_dir: Path, threads: int | None = None, *, on_gpu: bool = False,
                 rows_memory: Callable[[], DeviceMemory | None] | None = None):
        super().__init__(engine_dir)
        self._engine_dir, self._threads, self._on_gpu = engine_dir, threads, on_gpu
        self._open_memory, self._memory = rows_memory, None
        self._session: onnxruntime.InferenceSession | None = None
        self._loading = threading.Lock()

    @property
    def loaded(self) -> bool:
        return self._session is not None

    def frames_per_call(self, patches: int) -> int:
        return max(1, CALL_PATCHES // patches)

    def encode_frames(self, grid: Grid, patches: np.ndarray) -> VisualRows:
        inputs = {"patches": patches, **self.grid_inputs(grid)}
        session = self._loaded_session()
        if self._memory is None:
            return session.run([OUTPUT], inputs)[0]
        tokens = patches.shape[0] * patches.shape[1] // self.config.vision.spatial_merge_size**2
        rows = DeviceRows(self._memory, tokens * self.config.rows_per_token, self.config.text.hidden_size)
        binding, arrays = session.io_binding(), {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output(OUTPUT, self._memory.device, 0, DTYPE.type, rows.shape, rows.address)
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return rows

    def _loaded_session(self) -> onnxruntime.InferenceSession:
        with self._loading:
            if self._session is None:
                # First: who opens it may look at which libraries this process has.
                self._memory = self._open_memory() if self._open_memory else None
                self._session = (load_cuda_engine(self._engine_dir / "vision_encoder") if self._on_gpu else
                                 load_engine(self._engine_dir, "vision_encoder", session_options(self._threads)))
            return self._session
