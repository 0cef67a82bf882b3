"""The reference with the weights that a quantised export stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from export.quantisation.blocks import round_each
from export.quantisation.scheme import Blockwise, Quantisation
from qwen3vl.config import ModelConfig

PREFIX = "model.language_model.layers."
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
LINEAR = tuple(f"{name}_proj.weight" for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
                                                  "mlp.gate", "mlp.up", "mlp.down"))


@torch.no_grad()
def round_weights(parameters: Iterable[tuple[str, torch.nn.Parameter]], head: torch.nn.Linear, config: ModelConfig,
                  quantisation: Quantisation) -> None:
    """Replace every weight that the export quantises by its dequantised value, in place.

    Args:
        parameters: of a model in float32, by their names in a checkpoint.
        head: its output projection, which may be tied.
    """
    text, scheme = config.text, quantisation.weights
    for name, parameter in parameters:
        if not name.startswith(PREFIX):
            continue
        if name.endswith(EXPERTS):
            block = scheme.block_for(name, text.hidden_size, text.moe_intermediate_size)
            _round(parameter, scheme, block)
        elif name.endswith(LINEAR):
            _round([parameter], scheme, scheme.block_for(name, parameter.shape[1]))
    # A copy: a tied head shares its memory with the embedding, which stays as it is.
    head.weight = torch.nn.Parameter(head.weight.clone(), requires_grad=False)
    _round([head.weight], quantisation.head, quantisation.head.block_for("lm_head.weight", text.hidden_size))


def _round(matrices: Sequence[torch.Tensor] | torch.Tensor, scheme: Blockwise, block: int) -> None:
    rounded = round_each((matrix.numpy() for matrix in matrices), scheme.bits, block)
    for matrix, values in zip(matrices, rounded, strict=True):
        matrix.copy_(torch.from_numpy(values))
