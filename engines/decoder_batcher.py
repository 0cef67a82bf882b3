"""The decoder of a build, on whichever engine it was built for."""

from __future__ import annotations

from pathlib import Path

from engines.batching.interface import InFlightBatcher
from engines.description import EngineDescription
from qwen3vl.limits import Limits


def decoder_batcher(engine_dir: Path, limits: Limits, slots: int, threads: int | None = None,
                    cache_fraction: float | None = None) -> InFlightBatcher:
    """The batcher that fits the engine in the `engines/` folder of a build.

    Args:
        engine_dir: that folder; the tokenizer is in `processor/` beside it.
        limits: prompt length, total length and queue length.
        slots: requests served at the same time.
        threads: compute threads of an engine that runs on the CPU; by default one for each core.
        cache_fraction: share of a GPU's free memory for keys and values, where the engine manages it.

    Raises:
        ArtifactError: the folder holds no engines, those of another version, or they were not built for the limits.
    """
    if EngineDescription.load(engine_dir).target == "trtllm":
        from engines.trtllm.executor.batcher import ExecutorBatcher
        from engines.trtllm.executor.start import ExecutorOptions

        options = ExecutorOptions() if cache_fraction is None else ExecutorOptions(cache_fraction)
        return ExecutorBatcher(engine_dir, limits, slots, options)
    from engines.batching.batcher import Batcher

    return Batcher(engine_dir, limits, slots, threads=threads)
