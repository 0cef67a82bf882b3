"""The reference model of `transformers`, driven with this project's prepared requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLMoeForConditionalGeneration

from qwen3vl.config import ModelConfig
from qwen3vl.images import ImageSettings
from qwen3vl.patches import normalise
from qwen3vl.processor import ModelInputs


class ReferenceModel:
    """A checkpoint in `transformers`, float32, on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.config, self.settings = ModelConfig.from_checkpoint(folder), ImageSettings.from_checkpoint(folder)
        self.model = Qwen3VLMoeForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def visual_rows(self, inputs: ModelInputs) -> Tensor:
        """[N, 1 + D, H]: embedding and DeepStack levels of each visual token."""
        pixels = torch.from_numpy(normalise(inputs.patches, self.settings))
        output = self.model.model.visual(pixels, torch.from_numpy(inputs.grids).long())
        return torch.stack([output.pooler_output, *output.deepstack_features], dim=1)

    @torch.inference_mode()
    def logits(self, inputs: ModelInputs, videos: tuple[int, ...] = ()) -> Tensor:
        """[S, vocab_size]. `videos`: which of the request's grids are videos."""
        return self.model(**self._arguments(inputs, videos)).logits[0]

    @torch.inference_mode()
    def generate(self, inputs: ModelInputs, max_tokens: int, videos: tuple[int, ...] = ()) -> list[int]:
        """Exactly `max_tokens` greedy tokens, whether they end the text or not."""
        output = self.model.generate(**self._arguments(inputs, videos), max_new_tokens=max_tokens, do_sample=False,
                                     eos_token_id=None, pad_token_id=0)
        return output[0, inputs.token_ids.size:].tolist()

    def _arguments(self, inputs: ModelInputs, videos: tuple[int, ...]) -> dict[str, Tensor]:
        merged = [t * h * w // self.config.vision.merge_unit for t, h, w in inputs.grids.tolist()]
        is_video = np.isin(np.arange(len(merged)), videos)
        token_ids = inputs.token_ids.astype(np.int64)
        visual = token_ids >= self.config.text.vocab_size
        of_video = np.repeat(is_video, merged)
        token_ids[visual] = np.where(of_video, self.config.video_token_id, self.config.image_token_id)
        types = np.zeros_like(token_ids)
        types[visual] = np.where(of_video, 2, 1)
        arguments = {"input_ids": torch.from_numpy(token_ids)[None], "mm_token_type_ids": torch.from_numpy(types)[None],
                     "attention_mask": torch.ones(1, token_ids.size, dtype=torch.long)}
        if not merged:
            return arguments
        pixels = torch.from_numpy(normalise(inputs.patches, self.settings))
        patch_of_video = torch.from_numpy(np.repeat(is_video, [t * h * w for t, h, w in inputs.grids.tolist()]))
        grids = torch.from_numpy(inputs.grids).long()
        for chosen, values, grid in ((False, "pixel_values", "image_grid_thw"),
                                     (True, "pixel_values_videos", "video_grid_thw")):
            which = torch.from_numpy(is_video == chosen)
            if which.any():
                arguments |= {values: pixels[patch_of_video == chosen], grid: grids[which]}
        return arguments
