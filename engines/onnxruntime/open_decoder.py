"""The decoder of a build that ONNX Runtime runs, on whichever device it was built for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from engines.batching.step import BegunStep
from engines.onnxruntime.cuda_record import RECORD_FILE
from qwen3vl.config import ModelConfig


class StepDecoder(Protocol):
    """What the batcher needs of it; `engines.onnxruntime.decoder.Decoder` says what each does.

    Attributes:
        slots: sequences that fit the cache.
        capacity: tokens that fit one slot.
        runs_ahead: whether `begin_step` returns before the step is computed, and takes tokens that are not known yet.
        candidates: the largest top_k by which a step chooses tokens; 0 where it does not.
    """

    config: ModelConfig
    slots: int
    capacity: int
    runs_ahead: bool
    candidates: int

    def prefill(self, slot: int, token_ids: np.ndarray, position_ids: np.ndarray, visual_rows: np.ndarray,
                start: int, logit_rows: np.ndarray) -> np.ndarray: ...

    def decode(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray) -> np.ndarray: ...

    def begin_step(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray,
                   draws: np.ndarray | None = None) -> BegunStep: ...

    def move_slot(self, source: int, target: int, length: int) -> None: ...


def open_decoder(engine_dir: Path, slots: int, capacity: int, threads: int | None = None,
                 device: str = "cuda") -> StepDecoder:
    """Load the decoder in the `engines/` folder of a build.

    Args:
        slots: sequences that fit the cache.
        capacity: tokens that fit one slot.
        threads: compute threads of an engine for the CPU; by default one for each core.
        device: what runs an engine for a GPU: "cuda" or, for the same engine without one, "cpu".

    Raises:
        ArtifactError: the folder holds no engines, or those of another version, or they cannot be loaded.
    """
    if (engine_dir / "decoder" / RECORD_FILE).is_file():
        from engines.onnxruntime.cuda_decoder import CudaDecoder

        return CudaDecoder(engine_dir, slots, capacity, device)
    from engines.onnxruntime.decoder import Decoder

    return Decoder(engine_dir, slots, capacity, threads)
