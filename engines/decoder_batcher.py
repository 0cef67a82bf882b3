"""The decoder of a build, on whichever engine it was built for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.batching.interface import InFlightBatcher
from engines.batching.prefill import PrefillSettings
from engines.description import EngineDescription
from export.trtllm.plan import CACHE_PERCENT
from qwen3vl.limits import Limits

# Tokens. A GPU takes more at once: each chunk of Qwen3-VL-30B-A3B reads nearly all weights again, 10 ms of an H200, and
# so many tokens need half a gigabyte.
LARGEST_CHUNK = {"cuda": 4096}


@dataclass(frozen=True)
class DecoderSettings:
    """How a decoder is run. Each engine takes what concerns it.

    Attributes:
        slots: requests served at the same time.
        threads: compute threads of an engine that runs on the CPU; 0 for one for each core.
        stall_seconds: time between two tokens of a running request while prompts are processed; TensorRT-LLM decides
            for itself.
        cache_fraction: share of a GPU's free memory that TensorRT-LLM gets for keys and values.
    """

    slots: int
    threads: int = 0
    stall_seconds: float = PrefillSettings.stall_seconds
    cache_fraction: float = CACHE_PERCENT / 100


def decoder_batcher(engine_dir: Path, limits: Limits, settings: DecoderSettings) -> InFlightBatcher:
    """The batcher that fits the engine in the `engines/` folder of a build.

    Args:
        engine_dir: that folder; the tokenizer is in `processor/` beside it.
        limits: prompt length, total length and queue length.

    Raises:
        ArtifactError: the folder holds no engines, those of another version, or they were not built for the limits.
    """
    target = EngineDescription.load(engine_dir).target
    if target == "trtllm":
        from engines.trtllm.executor.batcher import ExecutorBatcher
        from engines.trtllm.executor.start import ExecutorOptions

        return ExecutorBatcher(engine_dir, limits, settings.slots, ExecutorOptions(settings.cache_fraction))
    from engines.batching.batcher import Batcher

    prefill = PrefillSettings(settings.stall_seconds, max_tokens=LARGEST_CHUNK.get(target, PrefillSettings.max_tokens))
    return Batcher(engine_dir, limits, settings.slots, prefill, settings.threads or None)
