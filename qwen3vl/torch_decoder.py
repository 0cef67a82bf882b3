"""The MoE decoder in plain torch: token ids and visual rows in, logits out.

Ids below vocab_size are words; an id of vocab_size + r is the visual token whose rows start at row r of
`visual_rows`: row r replaces the word embedding, rows r + 1 .. r + D are added after decoder layers 0 .. D - 1.

Attribute names are those of the checkpoint below `model.language_model.`, and `lm_head`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3vl.config import TextConfig
from qwen3vl.rope import mrope_axes, text_frequencies
from qwen3vl.torch_vision_encoder import rotate


def deepstack_add(hidden: Tensor, token_ids: Tensor, visual_rows: Tensor, level: int, vocab_size: int) -> Tensor:
    """`hidden + where(id >= vocab_size, visual_rows[id - vocab_size + level], 0)`.

    Args:
        hidden: [B, S, H].
        token_ids: integer [B, S].
        visual_rows: [R, H]; R may be 0, as no id is visual then.
        level: 0 for the embedding, 1..D for what follows decoder layer `level - 1`.
    """
    if visual_rows.shape[0] == 0:
        return hidden
    is_visual = token_ids >= vocab_size
    rows = F.embedding(torch.where(is_visual, token_ids - vocab_size + level, 0), visual_rows)
    return hidden + torch.where(is_visual[..., None], rows, 0).to(hidden.dtype)


class KeyValueCache:
    """Keys and values of each layer, [B, key-value heads, T, head_dim], growing with each forward pass."""

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []

    @property
    def length(self) -> int:
        """Positions held, T."""
        return self._layers[0][0].shape[2] if self._layers else 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new positions and return all of them."""
        if layer == len(self._layers):
            self._layers.append((key, value))
        else:
            past_key, past_value = self._layers[layer]
            self._layers[layer] = (torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2))
        return self._layers[layer]


class Decoder(nn.Module):
    """Logits of the next token.

    Args:
        deepstack_levels: D, the number of rows of a visual token besides its embedding.
        tie_word_embeddings: the output projection is the embedding matrix.
    """

    def __init__(self, config: TextConfig, deepstack_levels: int, tie_word_embeddings: bool) -> None:
        super().__init__()
        self.config, self.deepstack_levels = config, deepstack_levels
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = MRoPE(config)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, token_ids: Tensor, visual_rows: Tensor, position_ids: Tensor, cache: KeyValueCache | None = None,
                key_mask: Tensor | None = None, logit_positions: Tensor | None = None) -> Tensor:
        """Run S more tokens of each sequence.

        Args:
            token_ids: integer [B, S].
            visual_rows: [R, H].
            position_ids: integer [3, B, S]: time, row, column.
            cache: keys and values of earlier positions; extended in place.
            key_mask: bool [B, T], T = cached + S positions: False where a position is padding.
            logit_positions: integer [B, K]: compute logits at these of the S positions only.

        Returns:
            logits [B, S, vocab_size], or [B, K, vocab_size].
        """
        hidden = self._embed(token_ids, visual_rows)
        cos, sin = self.rotary(position_ids)
        mask = attention_mask(token_ids.shape[1], cache.length if cache else 0, key_mask, token_ids.device)
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, cos, sin, mask, cache)
            if index < self.deepstack_levels:
                hidden = deepstack_add(hidden, token_ids, visual_rows, index + 1, self.config.vocab_size)
        if logit_positions is not None:
            hidden = hidden.gather(1, logit_positions[..., None].expand(-1, -1, hidden.shape[-1]))
        return self.lm_head(self.norm(hidden))

    def _embed(self, token_ids: Tensor, visual_rows: Tensor) -> Tensor:
        is_word = token_ids < self.config.vocab_size
        words = self.embed_tokens(torch.where(is_word, token_ids, 0)) * is_word[..., None]
        return deepstack_add(words, token_ids, visual_rows, 0, self.config.vocab_size)


class MRoPE(nn.Module):
    """Rotary positions along three axes: each frequency turns with time, row or column."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.from_numpy(text_frequencies(config)), persistent=False)
        self.register_buffer("axes", torch.from_numpy(mrope_axes(config)), persistent=False)

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """[3, B, S] -> cosine and sine, float32 [B, 1, S, head_dim]"""
        angles = position_ids[self.axes].permute(1, 2, 0).float() * self.frequencies.float()
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos(), angles.sin()


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, index)
        self.mlp = MixtureOfExperts(config) if config.is_sparse(index) else MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None,
                cache: KeyValueCache | None) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin, mask, cache)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Attention(nn.Module):
    """Causal grouped-query attention; queries and keys are RMS-normalised for each head before the rotation."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.index, self.head_dim = index, config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None,
                cache: KeyValueCache | None) -> Tensor:
        """hidden [B, S, H]; cos, sin [B, 1, S, head_dim]; mask bool [B or 1, 1, S, T], None for plainly causal"""
        query = self.q_norm(self._heads(self.q_proj(hidden)))
        key = self.k_norm(self._heads(self.k_proj(hidden)))
        value = self._heads(self.v_proj(hidden))
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if cache is not None:
            key, value = cache.append(self.index, key, value)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None,
                                                  enable_gqa=True)
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MixtureOfExperts(nn.Module):
    """Each token goes through the top-k experts of a softmax router; their shares are renormalised to sum to 1.

    All experts are computed and weighted, the others by 0: deterministic, and quick for few and small experts.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.experts(hidden, self.gate(hidden))


class Router(nn.Linear):
    def __init__(self, config: TextConfig) -> None:
        super().__init__(config.hidden_size, config.num_experts, bias=False)
        self.top_k = config.num_experts_per_tok

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> shares of the experts [..., E], zero outside the top k, adding up to 1."""
        probabilities = super().forward(hidden).softmax(dim=-1, dtype=torch.float32)
        top, chosen = probabilities.topk(self.top_k, dim=-1)
        shares = torch.zeros_like(probabilities).scatter(-1, chosen, top / top.sum(dim=-1, keepdim=True))
        return shares.to(hidden.dtype)


class Experts(nn.Module):
    """Fused weights: `gate_up_proj` [E, 2I, H] (gate rows first, then up rows) and `down_proj` [E, H, I]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        experts, width, hidden = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))
        nn.init.normal_(self.gate_up_proj, std=hidden**-0.5)
        nn.init.normal_(self.down_proj, std=width**-0.5)

    def forward(self, hidden: Tensor, shares: Tensor) -> Tensor:
        """hidden [B, S, H], shares [B, S, E] -> [B, S, H]"""
        gate_up = F.linear(hidden, self.gate_up_proj.flatten(0, 1)).unflatten(-1, (shares.shape[-1], -1))
        gate, up = gate_up.chunk(2, dim=-1)
        weighted = F.silu(gate) * up * shares[..., None]
        return F.linear(weighted.flatten(-2), self.down_proj.transpose(0, 1).flatten(1))


class MLP(nn.Module):
    """SwiGLU, for the layers without experts."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden.float(), self.weight.shape, self.weight.float(), self.eps).to(hidden.dtype)


def attention_mask(length: int, past: int, key_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """bool [B or 1, 1, length, past + length], True where a query sees a key; None if causal and without a past."""
    if past == 0 and key_mask is None:
        return None
    causal = torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)[None, None]
    return causal if key_mask is None else causal & key_mask[:, None, None, :]
