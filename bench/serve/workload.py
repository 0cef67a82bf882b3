"""The requests of a load: mixed in length and pictures, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.serve.errors import BenchError
from engines.fidelity.cases import picture

WORDS = ("red", "green", "blue", "circle", "square", "triangle", "star", "left", "right", "above", "below", "two",
         "three", "small", "large", "picture", "shape", "colour", "where", "what", "and", "is", "the", "of")
# Pictures are drawn from this many for each size: making one for each request would hold up the sending.
PICTURES = 16


@dataclass(frozen=True)
class Range:
    """Whole numbers from `least` to `most`."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise BenchError(f"a range goes from {self.least} to {self.most}, expected 0 <= least <= most")

    def draw(self, random: np.random.Generator) -> int:
        return int(random.integers(self.least, self.most + 1))


@dataclass(frozen=True)
class Workload:
    """What requests look like; every number is drawn from its range, evenly.

    Attributes:
        text_tokens: tokens of the question's text, about: it is made of whole words.
        images: pictures of a request.
        image_sizes: width and height that each picture has one of, in pixels.
        answer_tokens: the longest that an answer may get; models may end it earlier.
        seed: requests of one seed are the same.
    """

    text_tokens: Range = Range(256, 2048)
    images: Range = Range(0, 4)
    image_sizes: tuple[tuple[int, int], ...] = ((224, 224), (448, 336))
    answer_tokens: Range = Range(16, 128)
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """What one request sends.

    Attributes:
        index: its number in the workload.
        messages: chat messages, with a place for each image.
        images: encoded files.
        max_tokens: of the answer.
        hang_up: the share of the answer after which the client hangs up; None to wait for all of it.
    """

    index: int
    messages: list
    images: list[bytes]
    max_tokens: int
    hang_up: float | None = None


class RequestSet:
    """The requests of a workload by number, each made when it is asked for.

    Args:
        tokens_per_word: of the server's tokenizer, on average.
        disconnects: share of the requests whose client hangs up before the answer ends.
    """

    def __init__(self, workload: Workload, tokens_per_word: float, disconnects: float = 0.0):
        self.workload, self._tokens_per_word, self._disconnects = workload, tokens_per_word, disconnects
        self._pictures = {size: [picture(*size, seed=workload.seed + i) for i in range(PICTURES)]
                          for size in workload.image_sizes}

    def __getitem__(self, index: int) -> Request:
        workload, random = self.workload, np.random.default_rng([self.workload.seed, index])
        tokens, images = workload.text_tokens.draw(random), workload.images.draw(random)
        sizes = [workload.image_sizes[random.integers(len(workload.image_sizes))] for _ in range(images)]
        files = [self._pictures[size][random.integers(PICTURES)] for size in sizes]
        text = random_text(max(1, round(tokens / self._tokens_per_word)), random)
        max_tokens = max(1, workload.answer_tokens.draw(random))
        hang_up = random.random() if random.random() < self._disconnects else None
        return Request(index, chat_messages(text, images), files, max_tokens, hang_up)


def random_text(words: int, random: np.random.Generator) -> str:
    """Words with spaces between them."""
    return " ".join(WORDS[i] for i in random.integers(len(WORDS), size=words))


def chat_messages(text: str, images: int) -> list:
    """One message of a user: places for images, then text."""
    return [{"role": "user", "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}]


def fitted(workload: Workload, room: int) -> Workload:
    """The workload with its texts shortened, where they are too long, so that the longest has `room` tokens.

    Raises:
        BenchError: there is no room for any text.
    """
    text = workload.text_tokens
    if room < 1:
        raise BenchError(f"{workload.images.most} images leave no room for text (limit prompt_tokens): ask for fewer "
                         "or smaller ones (--images, --image-size)")
    if text.most <= room:
        return workload
    return Workload(Range(max(1, text.least * room // text.most), room), workload.images, workload.image_sizes,
                    workload.answer_tokens, workload.seed)
