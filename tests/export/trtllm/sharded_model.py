"""A TensorRT-LLM checkpoint run in torch: every rank its own tensors, all-reduce and all-gather written out.

Written from the format's definition (docs/tensorrt-llm.md), not from the writer: it knows `config.json` and
`rank*.safetensors` and nothing of the code that made them. Arithmetic is float32, on the CPU, in one process.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

# MoeConfig.ExpertScaleNormalizationMode
SOFTMAX_OVER_ALL, SOFTMAX_OVER_CHOSEN = 0, 1


class ShardedModel:
    def __init__(self, folder: Path, deepstack_levels: int) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.levels = deepstack_levels
        mapping = self.config["mapping"]
        self.tp, self.pp = mapping["tp_size"], mapping["pp_size"]
        self.moe_tp, self.ep = mapping["moe_tp_size"], mapping["moe_ep_size"]
        assert self.moe_tp * self.ep == self.tp and self.tp * self.pp == mapping["world_size"]
        self.files = [load_file(folder / f"rank{rank}.safetensors") for rank in range(mapping["world_size"])]
        self.ranks = [{name: tensor.float() for name, tensor in file.items()} for file in self.files]
        self.unread = [set(rank) for rank in self.ranks]

    def logits(self, token_ids: Tensor, position_ids: Tensor, prompt_table: Tensor) -> Tensor:
        """[S, vocab_size] of one sequence.

        Args:
            token_ids: [S]; ids from vocab_size on are rows of the prompt table.
            position_ids: [3, S].
            prompt_table: [R, H]: a visual token's embedding and behind it its DeepStack levels.
        """
        cos_sin = self._mrope_table(position_ids)
        hidden = self._embed(token_ids, prompt_table)
        layer = 0
        for stage in range(self.pp):
            for local in range(self._layers_of(stage)):
                hidden = self._decoder_layer(stage, local, hidden, cos_sin)
                if layer < self.levels:
                    assert stage == 0, "only the first stage knows the token ids"
                    hidden = hidden + self._prompt_rows(token_ids, prompt_table, 1 + layer)
                layer += 1
        assert layer == self.config["num_hidden_layers"]
        last = self.pp - 1
        normed = [self._rms_norm(hidden, self._take(last, rank, "transformer.ln_f.weight")) for rank in range(self.tp)]
        gathered = torch.cat([F.linear(normed[rank], self._take(last, rank, "lm_head.weight"))
                              for rank in range(self.tp)], dim=-1)
        vocab_size = self.config["vocab_size"]
        assert gathered.shape[-1] == math.ceil(vocab_size / self.tp) * self.tp
        assert not gathered[:, vocab_size:].any(), "the padding of the vocabulary has weights"
        return gathered[:, :vocab_size]

    def _layers_of(self, stage: int) -> int:
        return len(torch.tensor_split(torch.arange(self.config["num_hidden_layers"]), self.pp)[stage])

    def _take(self, stage: int, tp_rank: int, name: str) -> Tensor:
        rank = stage * self.tp + tp_rank
        self.unread[rank].discard(name)
        return self.ranks[rank][name]

    def _embed(self, token_ids: Tensor, prompt_table: Tensor) -> Tensor:
        vocab_size, tables = self.config["vocab_size"], []
        for rank in range(self.tp):  # whole on every GPU
            words = F.embedding(token_ids.clamp(max=vocab_size - 1),
                                self._take(0, rank, "transformer.vocab_embedding.weight"))
            tables.append(torch.where((token_ids < vocab_size)[:, None], words,
                                      self._prompt_rows(token_ids, prompt_table, 0)))
        assert all(torch.equal(table, tables[0]) for table in tables)
        return tables[0]

    def _prompt_rows(self, token_ids: Tensor, prompt_table: Tensor, offset: int) -> Tensor:
        """Row `id - vocab_size + offset` of visual tokens, zero for words: [S, H]."""
        rows = torch.zeros(len(token_ids), self.config["hidden_size"])
        visual = token_ids >= self.config["vocab_size"]
        rows[visual] = prompt_table[token_ids[visual] - self.config["vocab_size"] + offset]
        return rows

    def _decoder_layer(self, stage: int, local: int, hidden: Tensor, cos_sin: Tensor) -> Tensor:
        prefix = f"transformer.layers.{local}"

        def on(rank: int, name: str) -> Tensor:
            return self._take(stage, rank, f"{prefix}.{name}")

        hidden = hidden + sum(self._attention(
            self._rms_norm(hidden, on(rank, "input_layernorm.weight")), on(rank, "attention.qkv.weight"),
            on(rank, "attention.dense.weight"), on(rank, "attention.q_layernorm.weight"),
            on(rank, "attention.k_layernorm.weight"), cos_sin) for rank in range(self.tp))
        return hidden + sum(self._mixture(
            rank, self._rms_norm(hidden, on(rank, "post_layernorm.weight")), on(rank, "mlp.router.weight"),
            on(rank, "mlp.fc.weight"), on(rank, "mlp.proj.weight")) for rank in range(self.tp))

    def _attention(self, x: Tensor, qkv: Tensor, dense: Tensor, q_norm: Tensor, k_norm: Tensor,
                   cos_sin: Tensor) -> Tensor:
        """One GPU's heads; what it returns is to be summed over the GPUs."""
        head = self.config["head_size"]
        heads = self.config["num_attention_heads"] // self.tp
        kv_heads = math.ceil(self.config["num_key_value_heads"] / self.tp)
        query, key, value = F.linear(x, qkv).unflatten(-1, (-1, head)).split([heads, kv_heads, kv_heads], dim=1)
        query, key = self._rotate(self._rms_norm(query, q_norm), cos_sin), self._rotate(self._rms_norm(key, k_norm),
                                                                                        cos_sin)
        attended = F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in (query, key, value)),
                                                  is_causal=True, enable_gqa=True)
        return F.linear(attended.transpose(0, 1).flatten(1), dense)

    def _mixture(self, tp_rank: int, x: Tensor, router: Tensor, fc: Tensor, proj: Tensor) -> Tensor:
        """One GPU's share of its experts; what it returns is to be summed over the GPUs."""
        moe, per_rank = self.config["moe"], self.config["moe"]["num_experts"] // self.ep
        first = tp_rank % self.ep * per_rank
        inner = self.config["moe_intermediate_size"] // self.moe_tp
        assert fc.shape[:2] == (per_rank, 2 * inner) and router.shape[0] == moe["num_experts"]
        scores = F.linear(x, router)
        if moe["normalization_mode"] == SOFTMAX_OVER_CHOSEN:
            top, chosen = scores.topk(moe["top_k"], dim=-1)
            shares = top.softmax(dim=-1)
        else:
            shares, chosen = scores.softmax(dim=-1).topk(moe["top_k"], dim=-1)
        output = torch.zeros_like(x)
        for local in range(per_rank):
            weight = (shares * (chosen == first + local)).sum(dim=-1, keepdim=True)
            linear, gate = F.linear(x, fc[local]).chunk(2, dim=-1)  # swiglu: the second half is the gate
            output += weight * F.linear(F.silu(gate) * linear, proj[local])
        return output

    def _mrope_table(self, position_ids: Tensor) -> Tensor:
        """What a request brings as `mrope_rotary_cos_sin`: cosine and sine of each of its positions, [S, 2, dim / 2].

        Qwen3-VL's interleaved axes (transformers' documentation of `mrope_interleaved`): frequency i turns with the
        row where i % 3 is 1, with the column where it is 2, up to each axis' section, else with time.
        """
        dim, sections = self.config["rotary_embedding_dim"], self.config["rotary_scaling"]["mrope_section"]
        angles = []
        for i in range(dim // 2):
            axis = i % 3 if i < 3 * sections[i % 3] else 0
            angles.append(position_ids[axis].double() * self.config["rotary_base"] ** (-2 * i / dim))
        stacked = torch.stack(angles, dim=-1)
        assert len(stacked) <= self.config["max_position_embeddings"]
        return torch.stack([stacked.cos(), stacked.sin()], dim=1).float()

    @staticmethod
    def _rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
        """The two halves of each head are one number's parts (neox): x [S, heads, dim]."""
        cos, sin = cos_sin[:, None, 0], cos_sin[:, None, 1]
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.pow(2).mean(dim=-1, keepdim=True) + self.config["norm_epsilon"]).rsqrt() * weight
