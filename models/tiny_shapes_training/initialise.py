"""Initial weights: activations of about unit size, quiet residual branches and outputs."""

from __future__ import annotations

import torch
from torch import nn

from qwen3vl.torch_model import TorchModel


@torch.no_grad()
def initialise(model: TorchModel) -> None:
    """Draw all weights from torch's global generator."""
    layers = len(model.decoder.layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.constant_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            nn.init.trunc_normal_(parameter, std=_std(name, parameter, layers))


def _std(name: str, parameter: torch.Tensor, layers: int) -> float:
    if "embed_tokens" in name:
        return 0.5
    if "pos_embed" in name:
        return 0.2
    if name.endswith(("lm_head.weight", "mlp.gate.weight")):
        return 0.02
    # Experts are [E, out, in]; a Conv3d is a product over everything but its outputs.
    fan_in = parameter.shape[2] if ".experts." in name else parameter[0].numel()
    branch_ends = ("o_proj.weight", "down_proj", "attn.proj.weight", "blocks.mlp.linear_fc2.weight")
    return fan_in**-0.5 * ((2 * layers) ** -0.5 if name.endswith(branch_ends) else 1.0)
