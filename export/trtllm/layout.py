"""Names, shapes and types of one rank's tensors, from the configuration alone.

The layout that `PretrainedModel.from_checkpoint` of TensorRT-LLM 1.2.1 loads for its Qwen decoder
(models/modeling_utils.py, models/qwen/model.py, layers/{attention,linear,moe,embedding}.py); layers are numbered from 0
within each pipeline stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from export.trtllm.parallel import Rank
from qwen3vl.config import ModelConfig

EMBEDDING, FINAL_NORM, HEAD = "transformer.vocab_embedding.weight", "transformer.ln_f.weight", "lm_head.weight"
# Weights that TensorRT-LLM replaces by integers when an engine with weight-only quantisation is built
# (models/convert_utils.py); their outputs are the last axis but one.
QUANTISED = ("attention.qkv.weight", "attention.dense.weight", "mlp.fc.weight", "mlp.proj.weight")


@dataclass(frozen=True)
class TensorLayout:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def padded_vocab_size(config: ModelConfig, tp: int) -> int:
    """Rows of the output projection, zeros behind the vocabulary, so that each GPU has as many."""
    return math.ceil(config.text.vocab_size / tp) * tp


def rank_layout(config: ModelConfig, rank: Rank, dtype: np.dtype) -> list[TensorLayout]:
    """The tensors of `rank{N}.safetensors`, in the order in which they are written."""
    text, parallelism = config.text, rank.parallelism
    tensors = []
    if rank.is_first_stage:
        tensors.append(TensorLayout(EMBEDDING, (text.vocab_size, text.hidden_size), dtype))
    for local in range(len(parallelism.layers(rank.stage, text.num_hidden_layers))):
        tensors += _layer_layout(config, rank, f"transformer.layers.{local}", dtype)
    if rank.is_last_stage:
        head_rows = padded_vocab_size(config, parallelism.tp) // parallelism.tp
        tensors += [TensorLayout(FINAL_NORM, (text.hidden_size,), dtype),
                    TensorLayout(HEAD, (head_rows, text.hidden_size), dtype)]
    return tensors


def _layer_layout(config: ModelConfig, rank: Rank, layer: str, dtype: np.dtype) -> list[TensorLayout]:
    text, parallelism = config.text, rank.parallelism
    hidden, inner = text.hidden_size, text.moe_intermediate_size // parallelism.moe_tp
    experts, heads = text.num_experts // parallelism.ep, text.num_attention_heads // parallelism.tp
    qkv_heads = heads + 2 * parallelism.local_kv_heads(config)
    shapes = {
        "input_layernorm.weight": (hidden,), "attention.qkv.weight": (qkv_heads * text.head_dim, hidden),
        "attention.q_layernorm.weight": (text.head_dim,), "attention.k_layernorm.weight": (text.head_dim,),
        "attention.dense.weight": (hidden, heads * text.head_dim), "post_layernorm.weight": (hidden,),
        "mlp.router.weight": (text.num_experts, hidden), "mlp.fc.weight": (experts, 2 * inner, hidden),
        "mlp.proj.weight": (experts, hidden, inner)}
    # Routing runs in float32, whatever the rest does.
    return [TensorLayout(f"{layer}.{name}", shape, np.dtype(np.float32) if "router" in name else dtype)
            for name, shape in shapes.items()]
