"""The experts of many tokens in double precision, and ways to route them."""

from __future__ import annotations

import torch

from bench.decoder_cuda.model import Layer


def routings(tokens: int, k: int, experts: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Experts chosen by each token, int64 [tokens, k] without repetition: alike, and as skewed as can be."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(tokens, experts, generator=generator).topk(k).indices
    # an expert's score falls with its number, so that a few experts have most tokens and many have none
    skewed = (torch.rand(tokens, experts, generator=generator) - 0.04 * torch.arange(experts)).topk(k).indices
    same = torch.arange(0, experts, experts // k)[:k].flip(0).expand(tokens, k)
    return {"uniform": uniform, "skewed": skewed, "same experts": same.contiguous()}


def reference(x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, layer: Layer) -> torch.Tensor:
    """float64 [tokens, H]: the sum of the chosen experts' outputs by their weights.

    Args:
        x: float [tokens, H].
        chosen: integers [tokens, k].
        weights: float32 [tokens, k].
        layer: gate_up [E, 2 I, H], gate and up rows alternating, and down [E, H, I].
    """
    out = torch.zeros(x.shape, device=x.device, dtype=torch.float64)
    for expert in chosen.unique().tolist():
        tokens, choices = (chosen == expert).nonzero(as_tuple=True)
        gate, up = (x[tokens].double() @ layer.gate_up[expert].double().T).view(len(tokens), -1, 2).unbind(2)
        outputs = (gate * gate.sigmoid() * up) @ layer.down[expert].double().T
        out.index_add_(0, tokens, outputs * weights[tokens, choices, None].double())
    return out
