"""One turn of a conversation, and the many ways people phrase a question."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

EMOJI_REQUEST = (" Answer with emoji.", " Answer in emoji.", " Use emoji.")
SENTENCE_REQUEST = (" Answer in a sentence.", " Answer in a full sentence.")
IMAGE_WORDS = ("picture", "picture", "image", "photo")


@dataclass(frozen=True)
class Turn:
    """A question and its only right answer; `topic` names the type of question in the evaluation."""

    topic: str
    question: str
    answer: str


def ask(rng: Random, topic: str, templates: tuple[str, ...], answer: str, **words: str) -> Turn:
    """Fill one of the templates; `{image}` becomes picture, image or photo."""
    question = rng.choice(templates).format(image=rng.choice(IMAGE_WORDS), **words)
    return Turn(topic, loosely_typed(rng, question), answer)


def loosely_typed(rng: Random, question: str) -> str:
    """American spelling, and at times no capital or no final mark, as people type."""
    if rng.random() < 0.5:
        question = question.replace("colour", "color")
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.15 and question[-1] in "?.。？":
        question = question[:-1]
    return question
