"""Batches of conversations in tensors of fixed shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from random import Random

import numpy as np
import torch
from torch import Tensor

from models.tiny_shapes_training import media_mix
from models.tiny_shapes_training.examples import IGNORED, SEQUENCE_LENGTH, example
from qwen3vl.positions import interpolation, vision_positions
from qwen3vl.processor import ModelInputs, Processor

# Frames come in two classes, padded to so many patches.
PATCHES = (4 * media_mix.SMALL_TOKENS, 4 * media_mix.SIDES[1] ** 2)


@dataclass(frozen=True)
class Frames:
    """F frames of one class, as the vision encoder takes them (see `VisionEncoder.forward`)."""

    patches: Tensor
    patch_positions: Tensor
    interp_indices: Tensor
    interp_weights: Tensor
    patch_mask: Tensor

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Batch:
    """B conversations, padded at the end to S tokens.

    Attributes:
        frames: small and large ones; the visual rows of the batch are those of the first, then those of the second.
        token_ids: int64 [B, S]; visual ids point into the visual rows of the whole batch.
        position_ids: int64 [3, B, S].
        lengths: int64 [B].
        labels: int64 [B, S], the token that follows where it belongs to an answer, else IGNORED.
    """

    frames: tuple[Frames, Frames]
    token_ids: Tensor
    position_ids: Tensor
    lengths: Tensor
    labels: Tensor

    def tensors(self) -> list[Tensor]:
        return [*(tensor for frames in self.frames for tensor in frames.tensors()),
                self.token_ids, self.position_ids, self.lengths, self.labels]

    def to(self, device: torch.device | str) -> Batch:
        """Copy to a device, without waiting where the tensors are pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader."""
        return self._map(Tensor.pin_memory)

    def clone(self) -> Batch:
        return self._map(Tensor.clone)

    def copy_(self, other: Batch) -> None:
        """Take over the values of a batch of the same shapes."""
        for mine, others in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(others)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        frames = tuple(Frames(*map(change, frames.tensors())) for frames in self.frames)
        return Batch(frames, *map(change, (self.token_ids, self.position_ids, self.lengths, self.labels)))


def collate(examples: list[tuple[ModelInputs, np.ndarray]], processor: Processor, length: int,
            slots: tuple[int, int] | None = None) -> Batch:
    """Sort frames into classes, point visual ids at their rows, pad.

    Args:
        length: S.
        slots: frames of each class, those that are not needed blank; None for as many as needed.
    """
    vocab_size, rows_per_token = processor.config.text.vocab_size, processor.config.rows_per_token
    classes: tuple[list, list] = ([], [])
    places = []  # of each frame: class, index in it, visual tokens
    for inputs, _ in examples:
        start = 0
        for t, h, w in inputs.grids.tolist():
            for _ in range(t):
                size = int(h * w > PATCHES[0])
                places.append((size, len(classes[size]), h * w // 4))
                classes[size].append((inputs.patches[start:start + h * w], h, w))
                start += h * w
    counts = slots or tuple(map(len, classes))
    first_token = (0, counts[0] * PATCHES[0] // 4)
    visual_tokens = [first_token[size] + index * PATCHES[size] // 4 + np.arange(tokens)
                     for size, index, tokens in places]

    token_ids = np.full((len(examples), length), processor.tokenizer.eos_token_ids[0], dtype=np.int64)
    labels = np.full((len(examples), length), IGNORED, dtype=np.int64)
    position_ids = np.zeros((3, len(examples), length), dtype=np.int64)
    for row, (inputs, label) in enumerate(examples):
        size = inputs.token_ids.size
        token_ids[row, :size], labels[row, :label.size] = inputs.token_ids, label
        position_ids[:, row, :size] = inputs.position_ids
    visual_ids = vocab_size + rows_per_token * np.concatenate([np.empty(0, int), *visual_tokens])
    token_ids[token_ids >= vocab_size] = visual_ids
    frames = tuple(_padded(group, count, patches, processor)
                   for group, count, patches in zip(classes, counts, PATCHES, strict=True))
    lengths = torch.tensor([inputs.token_ids.size for inputs, _ in examples])
    return Batch(frames, torch.from_numpy(token_ids), torch.from_numpy(position_ids), lengths, torch.from_numpy(labels))


def _padded(frames: list[tuple[np.ndarray, int, int]], count: int, length: int, processor: Processor) -> Frames:
    vision = processor.config.vision
    shapes = ((vision.patch_dim, np.uint8), (2, np.int32), (4, np.int32), (4, np.float32))
    arrays = [np.zeros((count, length, size), dtype) for size, dtype in shapes]
    mask = np.ones((count, length), bool)  # a blank frame sees itself: attention to nothing has no value
    for i, (pixels, h, w) in enumerate(frames):
        values = (pixels, vision_positions(h, w, vision.spatial_merge_size),
                  *interpolation(h, w, vision.grid_side, vision.spatial_merge_size))
        for array, value in zip(arrays, values, strict=True):
            array[i, :h * w] = value
        mask[i, h * w:] = False
    return Frames(*map(torch.from_numpy, (*arrays, mask)))


class TrainingBatches(torch.utils.data.Dataset):
    """Batches of one shape; batch number k depends on the seed and k alone, whichever process makes it."""

    def __init__(self, processor: Processor, seed: int, batches: int, conversations: int) -> None:
        self._processor, self._seed, self._batches = processor, seed, batches
        self._kinds = media_mix.mixed(conversations)
        several, clips = self._kinds.count("several pictures"), self._kinds.count("clip")
        self._slots = (self._kinds.count("small picture") + 3 * several + 4 * clips,
                       self._kinds.count("large picture") + several)

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, number: int) -> Batch:
        rng = Random(f"train {self._seed} {number}")
        examples = [example(rng, self._processor, media_mix.media(rng, kind)) for kind in self._kinds]
        return collate(examples, self._processor, SEQUENCE_LENGTH, self._slots)
