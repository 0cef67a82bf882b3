"""Vision encoder and decoder of one checkpoint in torch: loading, visual rows of a request, greedy generation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.errors import CheckpointError
from qwen3vl.fused_experts import FusedExperts
from qwen3vl.images import ImageSettings
from qwen3vl.positions import interpolation, vision_positions
from qwen3vl.processor import ModelInputs
from qwen3vl.torch_decoder import Decoder, KeyValueCache
from qwen3vl.torch_vision_encoder import VisionEncoder

VISION_PREFIX = "model.visual."
TEXT_PREFIX = "model.language_model."


class TorchModel(nn.Module):
    """Both halves of a model, randomly initialised; `from_checkpoint` loads one."""

    def __init__(self, config: ModelConfig, image_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
                 image_std: tuple[float, ...] = (0.5, 0.5, 0.5)) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(config.vision, image_mean, image_std)
        self.decoder = Decoder(config.text, config.vision.deepstack_levels, config.tie_word_embeddings)

    @classmethod
    def from_checkpoint(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> TorchModel:
        """Load a checkpoint folder whose preprocessor_config.json gives the pixel normalisation.

        Raises:
            CheckpointError: a file or tensor is missing, or a tensor has an unexpected shape.
        """
        settings = ImageSettings.from_checkpoint(folder)
        model = cls(ModelConfig.from_checkpoint(folder), settings.image_mean, settings.image_std)
        with Checkpoint.open(folder) as checkpoint, torch.no_grad():
            for name, parameter in model.checkpoint_parameters():
                parameter.copy_(_read(checkpoint, name, tuple(parameter.shape), model.config))
        return model.to(dtype).eval()

    def checkpoint_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters with their names in a checkpoint; a tied output projection is not among them."""
        for name, parameter in self.vision_encoder.named_parameters():
            yield VISION_PREFIX + name, parameter
        for name, parameter in self.decoder.named_parameters():
            yield name if name.startswith("lm_head.") else TEXT_PREFIX + name, parameter

    def visual_rows(self, patches: np.ndarray, grids: np.ndarray) -> Tensor:
        """Encode a request's images and videos one after the other.

        Args:
            patches: uint8 [P, patch_dim].
            grids: integer [n, 3], (t, h, w) of each.

        Returns:
            [(1 + D) * P / merge_unit, hidden_size].
        """
        vision = self.config.vision
        weight = self.decoder.lm_head.weight
        rows, start = [weight.new_empty(0, self.config.text.hidden_size)], 0
        for t, h, w in np.asarray(grids).tolist():
            frames = torch.from_numpy(patches[start:start + t * h * w].reshape(t, h * w, -1))
            start += t * h * w
            positions = (vision_positions(h, w, vision.spatial_merge_size),
                         *interpolation(h, w, vision.grid_side, vision.spatial_merge_size))
            arguments = (frames, *map(torch.from_numpy, positions))
            rows.append(self.vision_encoder(*(argument.to(weight.device) for argument in arguments)))
        return torch.cat(rows)

    @torch.inference_mode()
    def generate(self, inputs: ModelInputs, max_tokens: int, eos_token_ids: tuple[int, ...] = ()) -> list[int]:
        """The most likely next tokens, one after the other, up to and with the first of `eos_token_ids`."""
        device = self.decoder.lm_head.weight.device
        rows, cache = self.visual_rows(inputs.patches, inputs.grids), KeyValueCache()
        token_ids = torch.from_numpy(inputs.token_ids).long()[None].to(device)
        position_ids = torch.from_numpy(inputs.position_ids).long()[:, None].to(device)
        generated: list[int] = []
        while len(generated) < max_tokens:
            last = torch.tensor([[token_ids.shape[1] - 1]], device=device)
            logits = self.decoder(token_ids, rows, position_ids, cache, logit_positions=last)
            generated.append(int(logits[0, 0].argmax()))
            if generated[-1] in eos_token_ids:
                break
            token_ids = torch.tensor([[generated[-1]]], device=device)
            position = cache.length + inputs.rope_delta
            position_ids = torch.full((3, 1, 1), position, device=device)
        return generated


def _read(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], config: ModelConfig) -> Tensor:
    """A tensor as float32 (torch does not know numpy's bfloat16), fused experts as [E, out, in]."""
    values = checkpoint.read(name)
    if ".experts." in name and FusedExperts(checkpoint, name.rpartition(".")[0], config.text).transposed:
        values = values.swapaxes(1, 2)
    if values.shape != shape:
        raise CheckpointError(f"{checkpoint.folder}: {name} has shape {list(values.shape)}, but config.json implies "
                              f"{list(shape)}: weights and configuration do not belong together")
    return torch.from_numpy(values.astype(np.float32))
