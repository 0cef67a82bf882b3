"""The `transformers` processor, run without torchvision.

Its video processor calls torchvision for two things: resizing, where torchvision passes on to `interpolate` of torch,
and normalising. `reference_processor` puts torch's own in their place; all the rest is the original code.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_processing_utils import BaseVideoProcessor


class _TorchOperations(BaseVideoProcessor):
    def resize(self, image: torch.Tensor, size, **_) -> torch.Tensor:
        frames = image.flatten(0, 1)  # [videos, frames, channel, row, column]
        resized = torch.nn.functional.interpolate(frames, (size.height, size.width), mode="bicubic", antialias=True)
        return resized.unflatten(0, image.shape[:2])

    def normalize(self, image: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, **_) -> torch.Tensor:
        return (image - mean[:, None, None]) / std[:, None, None]


class ReferenceVideoProcessor(Qwen3VLVideoProcessor, _TorchOperations):
    """Its `super().resize` and `normalize` find `_TorchOperations` first."""

    def convert_to_rgb(self, video: torch.Tensor) -> torch.Tensor:
        return video  # is RGB already


class ReferenceProcessor(Qwen3VLProcessor):
    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> None:
        """Without torchvision the original's check takes a placeholder for the class."""


def reference_processor(folder: str | Path) -> ReferenceProcessor:
    """The reference for a processor folder."""
    folder = Path(folder)
    return ReferenceProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder),
        video_processor=reference_video_processor(json.loads((folder / "video_preprocessor_config.json").read_text())),
        chat_template=(folder / "chat_template.jinja").read_text())


def reference_video_processor(values: dict) -> ReferenceVideoProcessor:
    """The reference for the content of a `video_preprocessor_config.json`."""
    names = ReferenceVideoProcessor.valid_kwargs.__annotations__
    return ReferenceVideoProcessor(**{name: value for name, value in values.items() if name in names})
