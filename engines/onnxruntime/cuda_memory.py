"""Does the decoder fit a GPU's memory? Asked before anything is loaded."""

from __future__ import annotations

from engines.cuda_driver import Gpu
from engines.onnxruntime.cuda_record import OTHER_BYTES, CudaDecoderRecord
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError


def require_gpu_memory(record: CudaDecoderRecord, config: ModelConfig, slots: int, capacity: int,
                       beside: int = 0) -> None:
    """Raise an ArtifactError unless weights, cache and what else is needed fit what is free of GPU 0, or without one.

    Args:
        capacity: tokens that fit one slot.
        beside: bytes that other engines will take later.
    """
    free, total = Gpu().memory()
    require_fit(record, config, slots, capacity, free - beside, total)


def require_fit(record: CudaDecoderRecord, config: ModelConfig, slots: int, capacity: int, free: int,
                total: int) -> None:
    """The same for a GPU with so many bytes left for it of so many."""
    needed, cache = record.needed_bytes(config, slots, capacity), record.cache_bytes(config, slots, capacity)
    if needed > free:
        raise ArtifactError(
            f"the decoder needs {_gb(needed)} of GPU memory ({_gb(record.weight_bytes)} of weights, {_gb(cache)} for "
            f"keys and values of {slots} slots of {capacity} tokens, {_gb(OTHER_BYTES)} allowed for working memory), "
            f"but {_gb(free)} of {_gb(total)} are left for it: lower --slots or the limit total_tokens with `qwen3vl "
            "compose`, or end what else uses the GPU")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
