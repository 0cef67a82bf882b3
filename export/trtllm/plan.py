"""GPU memory of a TensorRT-LLM deployment, from config.json alone; for sources see docs/tensorrt-llm.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

from export.trtllm.layout import QUANTISED, TensorLayout, padded_vocab_size, rank_layout
from export.trtllm.options import DTYPES, TrtllmOptions
from export.trtllm.parallel import Parallelism, Rank
from qwen3vl.config import ModelConfig, VisionConfig
from qwen3vl.errors import ArtifactError

GIB = 2**30
# Bytes of a weight that an engine keeps as integers.
WEIGHT_ONLY_BYTES = {"int8": 1.0, "int4": 0.5}
# CUDA context, NCCL, the libraries' kernels and TensorRT's own scratch memory on each GPU: an allowance.
RESERVED_BYTES = 2 * GIB
# Share of the memory left that the key-value cache takes, where `qwen3vl compose` is not told another. TensorRT-LLM's
# own default is 90; here the vision encoder's scratch memory comes into the rest too.
CACHE_PERCENT = 80


@dataclass(frozen=True)
class Deployment:
    """What is served at once.

    Attributes:
        max_batch: requests in flight.
        max_visual_tokens: visual tokens of one request; each has 1 + D rows in its prompt table.
        max_num_tokens: tokens of all requests in one step.
    """

    max_batch: int = 8
    max_visual_tokens: int = 4096
    max_num_tokens: int = 8192

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_visual_tokens", "max_num_tokens"):
            if getattr(self, name) < 1:
                raise ArtifactError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected a number above 0")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the fullest GPU of a deployment.

    Attributes:
        weights: of the decoder's share.
        vision_encoder: weights of the vision encoder, on the first GPU.
        prompt_tables: visual rows, the engine's table for each pipeline stage in flight and the requests' own.
        mrope_tables: rotary cosines and sines, likewise.
        activations: an estimate of what one step needs.
        cache_per_token: key-value cache of one token.
    """

    parallelism: Parallelism
    weights: int
    vision_encoder: int
    prompt_tables: int
    mrope_tables: int
    activations: int
    cache_per_token: int

    @property
    def without_cache(self) -> int:
        return (self.weights + self.vision_encoder + self.prompt_tables + self.mrope_tables + self.activations
                + RESERVED_BYTES)

    def cached_tokens(self, gpu_bytes: float) -> int:
        """Tokens that the key-value cache of GPUs of this size holds; 0 where the rest does not fit."""
        return max(0, int(CACHE_PERCENT / 100 * (gpu_bytes - self.without_cache) / self.cache_per_token))


def choose_parallelism(config: ModelConfig, gpus: int) -> Parallelism:
    """The division that this model allows for so many GPUs: tensor parallelism first, then as few stages as possible.

    Raises:
        ArtifactError: there is none; the message is that of plain tensor parallelism.
    """
    refusal = None
    for pp in (n for n in range(1, gpus + 1) if gpus % n == 0):
        tp = gpus // pp
        for ep in (n for n in range(1, tp + 1) if tp % n == 0):
            parallelism = Parallelism(tp, pp, ep)
            try:
                parallelism.check(config)
            except ArtifactError as error:
                refusal = refusal or error
            else:
                return parallelism
    raise ArtifactError(f"no division among {gpus} GPUs: {refusal}")


def plan(config: ModelConfig, options: TrtllmOptions, deployment: Deployment) -> MemoryPlan:
    """Memory of the fullest GPU, each part taken where it is largest.

    Raises:
        CheckpointError, ArtifactError: the model or an option does not fit the format.
    """
    options.check(config)
    text, parallelism, element = config.text, options.parallelism, DTYPES[options.dtype].itemsize
    # A rank of each stage; those of one stage are alike.
    stages = [parallelism.rank(stage * parallelism.tp) for stage in range(parallelism.pp)]
    rows = deployment.max_batch * config.rows_per_token * deployment.max_visual_tokens
    rotary = deployment.max_batch * options.length(config) * text.head_dim
    copies = parallelism.pp + 1  # one for each step in flight, and the requests' own
    return MemoryPlan(
        parallelism,
        weights=max(_weight_bytes(config, rank, options) for rank in stages),
        vision_encoder=vision_parameters(config.vision) * element,
        prompt_tables=copies * rows * text.hidden_size * element,
        mrope_tables=copies * rotary * 4,
        activations=_activation_bytes(config, parallelism, deployment, element),
        cache_per_token=(2 * len(parallelism.layers(0, text.num_hidden_layers)) * parallelism.local_kv_heads(config)
                         * text.head_dim * element))


def vision_parameters(config: VisionConfig) -> int:
    """Parameters of the vision encoder: patches, positions, blocks, and a merger for each row of a visual token."""
    hidden, inner, merged = config.hidden_size, config.intermediate_size, config.merged_size

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + 1) * outputs

    block = (4 * hidden + linear(hidden, 3 * hidden) + linear(hidden, hidden) + linear(hidden, inner)
             + linear(inner, hidden))
    merger = linear(merged, merged) + linear(merged, config.out_hidden_size)
    norms = 2 * hidden + config.deepstack_levels * 2 * merged
    return (linear(config.patch_dim, hidden) + config.num_position_embeddings * hidden + config.depth * block
            + (1 + config.deepstack_levels) * merger + norms)


def _weight_bytes(config: ModelConfig, rank: Rank, options: TrtllmOptions) -> int:
    return sum(_in_engine(layout, options.weight_only)
               for layout in rank_layout(config, rank, DTYPES[options.dtype]))


def _in_engine(layout: TensorLayout, weight_only: str | None) -> int:
    if weight_only is None or not layout.name.endswith(QUANTISED):
        return layout.size_bytes
    scales = math.prod(layout.shape[:-1]) * layout.dtype.itemsize
    return int(math.prod(layout.shape) * WEIGHT_ONLY_BYTES[weight_only]) + scales


def _activation_bytes(config: ModelConfig, parallelism: Parallelism, deployment: Deployment, element: int) -> int:
    """Four hidden states for each token; rows in, gate and up, activated and rows out for each chosen expert; logits.

    An estimate: TensorRT decides what is alive at the same time.
    """
    text, inner = config.text, config.text.moe_intermediate_size // parallelism.moe_tp
    per_token = 4 * text.hidden_size + text.num_experts_per_tok * (2 * text.hidden_size + 3 * inner)
    logits = deployment.max_batch * padded_vocab_size(config, parallelism.tp) * 4
    return deployment.max_num_tokens * per_token * element + logits
