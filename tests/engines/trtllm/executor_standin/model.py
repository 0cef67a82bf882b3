"""The engine: the project's torch decoder, turned by the rotary tables of the requests."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from qwen3vl.rope import text_frequencies
from qwen3vl.torch_decoder import KeyValueCache
from qwen3vl.torch_model import TorchModel


class SequenceCache(KeyValueCache):
    """Keys and values of one sequence."""

    def prefix(self, length: int) -> SequenceCache:
        """The first `length` positions, for another sequence that begins alike."""
        copy = SequenceCache()
        copy._layers = [(key[:, :, :length], value[:, :, :length]) for key, value in self._layers]
        return copy


class _TableRotary(nn.Module):
    """Looks cosines and sines up instead of computing them from positions."""

    rows: Tensor  # [S, dim / 2, 2]

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.rows, self.rows], dim=1)[None, None]
        return both[..., 0], both[..., 1]


class EngineModel:
    def __init__(self, checkpoint: Path) -> None:
        self.decoder = TorchModel.from_checkpoint(checkpoint).decoder
        self.config = self.decoder.config
        self.decoder.rotary = _TableRotary()
        self._frequencies = torch.from_numpy(text_frequencies(self.config))

    @torch.inference_mode()
    def run(self, token_ids: Tensor, table: Tensor, rotary_rows: Tensor, cache: SequenceCache) -> Tensor:
        """Append tokens to a sequence: ids [S] that count the rows of the batch's table -> logits [S, V]."""
        self.decoder.rotary.rows = rotary_rows
        positions = torch.zeros(3, 1, len(token_ids), dtype=torch.long)  # not looked at
        return self.decoder(token_ids[None], table.float(), positions, cache)[0]

    def generation_rotary(self, position: int) -> Tensor:
        """The engine's own table, which generated tokens use: [1, dim / 2, 2]."""
        angles = torch.tensor([[float(position)]]) * self._frequencies
        return torch.stack([angles.cos(), angles.sin()], dim=-1)
