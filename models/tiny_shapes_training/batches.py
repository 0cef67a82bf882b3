"""Conversations -> training batches, by the same preprocessing that serves requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from models.tiny_shapes_training import conversations
from models.tiny_shapes_training.conversations import Media, Size
from models.tiny_shapes_training.phrasing import Turn
from qwen3vl.positions import interpolation, vision_positions
from qwen3vl.processor import ModelInputs, Processor

SEQUENCE_LENGTH = 256
MAX_TURNS = 6
IGNORED = -100


@dataclass(frozen=True)
class Frames:
    """All frames of one grid in a batch, as the vision encoder takes them (see `VisionEncoder.forward`)."""

    patches: Tensor
    patch_positions: Tensor
    interp_indices: Tensor
    interp_weights: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.patches, self.patch_positions, self.interp_indices, self.interp_weights


@dataclass(frozen=True)
class Batch:
    """B conversations, padded at the end to S tokens.

    Attributes:
        frames: one entry a grid; the visual rows of the batch are those of the entries, one after the other.
        token_ids: int64 [B, S]; visual ids point into the visual rows of the whole batch.
        position_ids: int64 [3, B, S].
        lengths: int64 [B].
        labels: int64 [B, S], the token that follows where it belongs to an answer, else IGNORED.
    """

    frames: list[Frames]
    token_ids: Tensor
    position_ids: Tensor
    lengths: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Copy to a device, without waiting where the tensors are pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        frames = [Frames(*map(change, frames.tensors())) for frames in self.frames]
        return Batch(frames, *map(change, (self.token_ids, self.position_ids, self.lengths, self.labels)))


def example(rng: Random, processor: Processor, media: Media) -> tuple[ModelInputs, np.ndarray]:
    """A conversation of up to MAX_TURNS turns in at most SEQUENCE_LENGTH tokens, and its labels, int64 [S]."""
    left = SEQUENCE_LENGTH - media.visual_tokens - 20
    turns = []
    while len(turns) < MAX_TURNS:
        turn = media.turn(rng)
        size = len(processor.tokenizer.encode(turn.question + turn.answer)) + 11
        if size <= left:
            turns.append(turn)
            left -= size
        elif turns:
            break
    inputs, labels = encode(rng, processor, media, turns)
    if inputs.token_ids.size > SEQUENCE_LENGTH:
        raise ValueError(f"a conversation has {inputs.token_ids.size} tokens, at most {SEQUENCE_LENGTH} fit: {turns}")
    return inputs, labels


def encode(rng: Random, processor: Processor, media: Media, turns: list[Turn]) -> tuple[ModelInputs, np.ndarray]:
    messages = conversations.messages(rng, media, turns)
    inputs = processor(messages=messages, images=media.pictures, videos=media.clips)
    start_of_answer = processor.tokenizer.encode("<|im_start|>assistant\n")
    # The template always ends with the start of an answer: one more than wanted here.
    length = inputs.token_ids.size - len(start_of_answer)
    inputs = ModelInputs(inputs.token_ids[:length], inputs.position_ids[:, :length], inputs.rope_delta,
                         inputs.patches, inputs.grids)
    return inputs, answer_labels(inputs.token_ids, start_of_answer, processor.tokenizer.eos_token_ids[0])


def answer_labels(token_ids: np.ndarray, start_of_answer: list[int], end_of_turn: int) -> np.ndarray:
    """The next token at each position from the last token of `start_of_answer` to before the end of the turn."""
    labels = np.full(token_ids.size, IGNORED, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(token_ids, len(start_of_answer))
    ends = np.flatnonzero(token_ids == end_of_turn)
    for start in np.flatnonzero((windows == start_of_answer).all(axis=1)) + len(start_of_answer) - 1:
        end = ends[np.searchsorted(ends, start)]
        labels[start:end] = token_ids[start + 1:end + 1]
    return labels


def random_media(rng: Random, grids: list[tuple[int, int]]) -> Media:
    """Pictures and clips on these grids, (rows, columns) in visual tokens; the last two are small."""
    small = grids[-2:]
    what = rng.random()
    if what < 0.62:
        return conversations.picture(rng, random_size(rng, rng.choice(grids)))
    if what < 0.78:
        return conversations.several_pictures(rng, [random_size(rng, rng.choice(small))
                                                    for _ in range(rng.choice((2, 2, 2, 3)))])
    if what < 0.92:
        return conversations.moving_picture(rng, random_size(rng, rng.choice(small)))
    return conversations.nothing()


def random_grids(rng: Random) -> list[tuple[int, int]]:
    """(rows, columns) in visual tokens: one of any size, two small ones; 96 to 320 pixels a side."""
    large = (rng.randint(3, 10), rng.randint(3, 10))
    return [large, *((rng.randint(3, 6), rng.randint(3, 6)) for _ in range(2))]


def random_size(rng: Random, grid: tuple[int, int]) -> Size:
    """(width, height) in pixels that the preprocessing rounds to this grid."""
    rows, columns = grid
    return tuple(32 * n + (rng.randint(-15, 15) if n > 3 else rng.randint(0, 15)) for n in (columns, rows))


def collate(examples: list[tuple[ModelInputs, np.ndarray]], processor: Processor, length: int) -> Batch:
    """Group frames by grid, point visual ids at their rows, pad to `length`."""
    vocab_size, rows_per_token = processor.config.text.vocab_size, processor.config.rows_per_token
    vision = processor.config.vision
    groups: dict[tuple[int, int], list[np.ndarray]] = {}
    places = []  # of each frame: grid, index in its group
    for inputs, _ in examples:
        start = 0
        for t, h, w in inputs.grids.tolist():
            for _ in range(t):
                group = groups.setdefault((h, w), [])
                places.append(((h, w), len(group)))
                group.append(inputs.patches[start:start + h * w])
                start += h * w
    tokens = {grid: grid[0] * grid[1] // vision.merge_unit for grid in groups}
    first_token, total = {}, 0
    for grid, group in groups.items():
        first_token[grid] = total
        total += len(group) * tokens[grid]
    order = [first_token[grid] + index * tokens[grid] + np.arange(tokens[grid]) for grid, index in places]
    visual_ids = vocab_size + rows_per_token * np.concatenate([np.empty(0, np.int64), *order])

    token_ids = np.full((len(examples), length), processor.tokenizer.eos_token_ids[0], dtype=np.int64)
    labels = np.full((len(examples), length), IGNORED, dtype=np.int64)
    position_ids = np.zeros((3, len(examples), length), dtype=np.int64)
    for row, (inputs, label) in enumerate(examples):
        size = inputs.token_ids.size
        token_ids[row, :size], labels[row, :label.size] = inputs.token_ids, label
        position_ids[:, row, :size] = inputs.position_ids
    token_ids[token_ids >= vocab_size] = visual_ids
    frames = [_frames(np.stack(group), *grid, vision.grid_side, vision.spatial_merge_size)
              for grid, group in groups.items()]
    lengths = torch.tensor([inputs.token_ids.size for inputs, _ in examples])
    return Batch(frames, torch.from_numpy(token_ids), torch.from_numpy(position_ids), lengths, torch.from_numpy(labels))


def _frames(patches: np.ndarray, h: int, w: int, grid_side: int, merge: int) -> Frames:
    indices, weights = interpolation(h, w, grid_side, merge)
    return Frames(*map(torch.from_numpy, (patches, vision_positions(h, w, merge), indices, weights)))


class TrainingBatches(torch.utils.data.Dataset):
    """Batch number k depends on the seed and k alone, whichever process makes it."""

    def __init__(self, processor: Processor, seed: int, steps: int, conversations_per_batch: int) -> None:
        self._processor, self._seed, self._steps = processor, seed, steps
        self._conversations = conversations_per_batch

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        rng = Random(f"train {self._seed} {step}")
        grids = random_grids(rng)
        examples = [example(rng, self._processor, random_media(rng, grids)) for _ in range(self._conversations)]
        return collate(examples, self._processor, SEQUENCE_LENGTH)
