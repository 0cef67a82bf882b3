"""One rank's share of a checkpoint's weights, streamed chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from export.trtllm.layout import EMBEDDING, FINAL_NORM, HEAD, TensorLayout, rank_layout
from export.trtllm.parallel import Rank
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.errors import CheckpointError
from qwen3vl.fused_experts import FusedExperts

PREFIX = "model.language_model"
CHUNK_VALUES = 4 * 1024 * 1024

Chunks = Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class RankTensor:
    """A tensor to write. `chunks` returns, anew at each call, arrays that follow each other in its row-major order."""

    layout: TensorLayout
    chunks: Chunks


def rank_tensors(config: ModelConfig, checkpoint: Checkpoint, rank: Rank, dtype: np.dtype) -> list[RankTensor]:
    """The tensors of `rank_layout` with their values; the checkpoint's names and shapes are checked now.

    Raises:
        CheckpointError: a tensor is missing or has another shape than config.json implies.
    """
    sources = _RankSources(config, checkpoint, rank).all()
    return [RankTensor(layout, sources[layout.name]) for layout in rank_layout(config, rank, dtype)]


class _RankSources:
    """Where each tensor of a rank comes from: TensorRT-LLM's name -> chunks."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, rank: Rank) -> None:
        self.config, self.text = config, config.text
        self.checkpoint, self.rank, self.parallelism = checkpoint, rank, rank.parallelism

    def all(self) -> dict[str, Chunks]:
        sources = {}
        table = (self.text.vocab_size, self.text.hidden_size)
        if self.rank.is_first_stage:
            sources[EMBEDDING] = self._whole(f"{PREFIX}.embed_tokens.weight", *table)
        for local, layer in enumerate(self.parallelism.layers(self.rank.stage, self.text.num_hidden_layers)):
            for name, chunks in self._layer(f"{PREFIX}.layers.{layer}").items():
                sources[f"transformer.layers.{local}.{name}"] = chunks
        if self.rank.is_last_stage:
            sources[FINAL_NORM] = self._whole(f"{PREFIX}.norm.weight", self.text.hidden_size)
            sources[HEAD] = self._head()
        return sources

    def _layer(self, layer: str) -> dict[str, Chunks]:
        hidden, experts = self.text.hidden_size, FusedExperts(self.checkpoint, f"{layer}.mlp.experts", self.text)
        return {
            "input_layernorm.weight": self._whole(f"{layer}.input_layernorm.weight", hidden),
            "attention.qkv.weight": self._qkv(f"{layer}.self_attn"),
            "attention.q_layernorm.weight": self._whole(f"{layer}.self_attn.q_norm.weight", self.text.head_dim),
            "attention.k_layernorm.weight": self._whole(f"{layer}.self_attn.k_norm.weight", self.text.head_dim),
            "attention.dense.weight": self._dense(f"{layer}.self_attn.o_proj.weight"),
            "post_layernorm.weight": self._whole(f"{layer}.post_attention_layernorm.weight", hidden),
            "mlp.router.weight": self._whole(f"{layer}.mlp.gate.weight", self.text.num_experts, hidden),
            "mlp.fc.weight": lambda: self._up_then_gate(experts),
            "mlp.proj.weight": lambda: self._down(experts)}

    def _whole(self, name: str, *shape: int) -> Chunks:
        self._expect(name, *shape)
        return lambda: _row_chunks(self.checkpoint.read(name))

    def _qkv(self, attention: str) -> Chunks:
        """The rank's query heads, then its key heads, then its value heads; all of a head's rows together."""
        tp, text = self.parallelism.tp, self.text
        query_heads, kv_heads = text.num_attention_heads // tp, self.parallelism.local_kv_heads(self.config)
        # With fewer heads than GPUs, tp / heads neighbours share one.
        first = {"q": self.rank.tp_rank * query_heads, "k": self.rank.tp_rank * text.num_key_value_heads // tp}
        rows = {}
        for part, start, count, heads in (("q", first["q"], query_heads, text.num_attention_heads),
                                          ("k", first["k"], kv_heads, text.num_key_value_heads),
                                          ("v", first["k"], kv_heads, text.num_key_value_heads)):
            name = f"{attention}.{part}_proj.weight"
            self._expect(name, heads * text.head_dim, text.hidden_size)
            rows[name] = slice(start * text.head_dim, (start + count) * text.head_dim)
        return lambda: (chunk for name, part in rows.items() for chunk in _row_chunks(self.checkpoint.read(name)[part]))

    def _dense(self, name: str) -> Chunks:
        """The columns that take the rank's query heads."""
        inputs = self.text.num_attention_heads * self.text.head_dim
        self._expect(name, self.text.hidden_size, inputs)
        columns = _share(inputs, self.parallelism.tp, self.rank.tp_rank)
        return lambda: _row_chunks(self.checkpoint.read(name)[:, columns])

    def _head(self) -> Chunks:
        """The rank's rows of the output projection; behind the vocabulary come zeros."""
        name = f"{PREFIX}.embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        self._expect(name, self.text.vocab_size, self.text.hidden_size)
        size = -(-self.text.vocab_size // self.parallelism.tp)
        start = self.rank.tp_rank * size

        def chunks() -> Iterator[np.ndarray]:
            rows = self.checkpoint.read(name)[start : start + size]
            yield from _row_chunks(rows)
            if len(rows) < size:
                yield np.zeros((size - len(rows), rows.shape[1]), rows.dtype)

        return chunks

    def _up_then_gate(self, experts: FusedExperts) -> Iterator[np.ndarray]:
        """Each expert's share of the up projection, then that of the gate: [1, 2 * I / moe_tp, H]."""
        inner = self.text.moe_intermediate_size
        share = _share(inner, self.parallelism.moe_tp, self.rank.moe_tp_rank)
        for expert in self._experts():
            gate_up = experts.gate_up(expert)
            yield gate_up[inner:][share]
            yield gate_up[:inner][share]

    def _down(self, experts: FusedExperts) -> Iterator[np.ndarray]:
        share = _share(self.text.moe_intermediate_size, self.parallelism.moe_tp, self.rank.moe_tp_rank)
        return (experts.down(expert)[:, share] for expert in self._experts())

    def _experts(self) -> range:
        share = _share(self.text.num_experts, self.parallelism.ep, self.rank.ep_rank)
        return range(share.start, share.stop)

    def _expect(self, name: str, *shape: int) -> None:
        found = tuple(self.checkpoint.shape(name))
        if found != shape:
            raise CheckpointError(f"{self.checkpoint.folder}: {name} has shape {list(found)}, but config.json implies "
                                  f"{list(shape)}")


def _share(size: int, parts: int, index: int) -> slice:
    return slice(size // parts * index, size // parts * (index + 1))


def _row_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, CHUNK_VALUES * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        yield array[start : start + step]
