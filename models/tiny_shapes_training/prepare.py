"""Writes everything of the checkpoint folder but the weights: settings, tokenizer, chat template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from models.tiny_shapes_training import conversations
from models.tiny_shapes_training.architecture import write_settings
from models.tiny_shapes_training.tokenizer import train_tokenizer, write_tokenizer

CONVERSATIONS = 4000
SIZE = (32, 32)
# What the chat template and the video processor write around questions, answers and frames.
_TEMPLATE_WORDS = ("user\n", "assistant\n", "system\n", "<0.2 seconds>")


def prepare(folder: Path, seed: int) -> None:
    """Fill `folder`; the tokenizer is trained on questions and answers drawn with this seed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder)
    write_tokenizer(train_tokenizer(_texts(Random(f"tokenizer {seed}"))), folder)


def _texts(rng: Random) -> Iterator[str]:
    for number in range(CONVERSATIONS):
        media = (conversations.picture(rng, SIZE) if number % 10 < 6 else
                 conversations.several_pictures(rng, [SIZE] * rng.choice((2, 3))) if number % 10 < 8 else
                 conversations.moving_picture(rng, SIZE) if number % 10 < 9 else conversations.nothing())
        for _ in range(3):
            turn = media.turn(rng)
            yield from (turn.question, turn.answer, *_TEMPLATE_WORDS)
        yield rng.choice(conversations.SYSTEM_MESSAGES)
