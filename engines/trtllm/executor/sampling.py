"""Sampling parameters as TensorRT-LLM takes them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from qwen3vl.errors import InvalidRequest
from qwen3vl.sampling import SamplingParams

if TYPE_CHECKING:
    import tensorrt_llm.bindings.executor as trtllm

# cpp/tensorrt_llm/kernels/samplingTopKKernels.h: TOP_K_MAX. Its sampling layer would clip in silence.
MAX_TOP_K = 1024
SEED_BITS = 63


def require_samplable(params: SamplingParams, vocab_size: int) -> None:
    """Raise an InvalidRequest for what the kernels cannot do."""
    if params.temperature > 0 and MAX_TOP_K < params.top_k < vocab_size:
        raise InvalidRequest(f"top_k is {params.top_k}, expected at most {MAX_TOP_K}, the most that this engine takes, "
                             "or 0 for all")


def sampling_config(params: SamplingParams, vocab_size: int) -> trtllm.SamplingConfig:
    """The same meaning as `engines.batching.sampler`: penalty, temperature, top_k, top_p, in this order.

    Two differences are TensorRT-LLM's own. Its random numbers are others, so that a seed repeats an answer of this
    engine only. And within top_p the token that crosses the threshold is drawn with the probability that is left up to
    it, not with its whole (samplingTopKKernels.cu, samplingTopPKernels.cu).
    """
    import tensorrt_llm.bindings.executor as trtllm

    penalty = params.repetition_penalty if params.repetition_penalty != 1 else None
    if params.temperature == 0:
        return trtllm.SamplingConfig(top_k=1, repetition_penalty=penalty)
    return trtllm.SamplingConfig(
        # Both 0 would be greedy (topKSamplingLayer.cu), so top_p is always there; 0 leaves top_k out.
        top_k=params.top_k if params.top_k < vocab_size else 0, top_p=params.top_p, temperature=params.temperature,
        # Without a seed, each request would get the same one, 0 (layers/defaultDecodingParams.h).
        seed=params.seed if params.seed is not None else secrets.randbits(SEED_BITS), repetition_penalty=penalty)
