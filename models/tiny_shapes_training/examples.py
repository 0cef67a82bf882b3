"""Conversations -> token ids and labels, by the same preprocessing that serves requests."""

from __future__ import annotations

from random import Random

import numpy as np

from models.tiny_shapes_training import conversations
from models.tiny_shapes_training.conversations import Media
from models.tiny_shapes_training.phrasing import Turn
from qwen3vl.processor import ModelInputs, Processor

SEQUENCE_LENGTH = 224
MAX_TURNS = 6
IGNORED = -100


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
