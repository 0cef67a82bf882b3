"""What a server makes of words and pictures, found by asking it: then requests can be made to measure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bench.serve.errors import BenchError
from bench.serve.target import Target
from bench.serve.workload import RequestSet, Workload, chat_messages, fitted, random_text
from client.chat import VisionChat
from client.errors import BadRequest, ChatError
from engines.fidelity.cases import picture

WORDS = 200
# The longest request is allowed to be longer by this much than the average of its words tells.
MARGIN = 1.05


@dataclass(frozen=True)
class Calibration:
    """Attributes:
        tokens_per_word: of `workload.WORDS`, on average.
        overhead_tokens: of a request without text and images.
        image_tokens: of each image size of the workload, its place included.
    """

    tokens_per_word: float
    overhead_tokens: int
    image_tokens: list[int]


def calibrate(target: Target, workload: Workload) -> tuple[Calibration, Workload]:
    """Ask about the workload's parts, warm the server up with it, and make it fit the deployment's limits, as far as
    they are known.

    Returns:
        What was found, and the workload that fits.

    Raises:
        BenchError: the server does not answer, or refuses the longest request.
    """
    chat = VisionChat(target.url)
    if target.limits and workload.images.most > target.limits.images:
        workload = replace(workload, images=replace(workload.images, most=target.limits.images,
                                                    least=min(workload.images.least, target.limits.images)))
    text = random_text(WORDS, np.random.default_rng(workload.seed))
    few, many = (_prompt_tokens(chat, words, []) for words in (text.split()[0], text))
    per_word = (many - few) / (WORDS - 1)
    overhead = round(few - per_word)
    sizes = [_prompt_tokens(chat, text.split()[0], [picture(*size, seed=workload.seed)]) - few
             for size in workload.image_sizes] if workload.images.most else []
    found = Calibration(per_word, overhead, sizes)
    most_images = workload.images.most * max(sizes, default=0)
    if target.limits:
        workload = fitted(workload, int((target.limits.prompt_tokens - overhead - most_images) / MARGIN))
    _try_longest(chat, workload, found)
    return found, workload


def _try_longest(chat: VisionChat, workload: Workload, found: Calibration) -> None:
    size = workload.image_sizes[int(np.argmax(found.image_tokens))] if found.image_tokens else None
    images = [picture(*size, seed=workload.seed)] * workload.images.most if size else []
    words = max(1, round(workload.text_tokens.most / found.tokens_per_word))
    _prompt_tokens(chat, random_text(words, np.random.default_rng(workload.seed)), images)


def _prompt_tokens(chat: VisionChat, text: str, images: list[bytes]) -> int:
    try:
        return chat.ask(chat_messages(text, len(images)), images, max_tokens=1).usage.prompt_tokens
    except BadRequest as error:
        raise BenchError(f"the server refuses a request of this workload: {error}; make it smaller (--text-tokens, "
                         "--images, --image-size), or give the server's build folder so that its limits are known"
                         ) from None
    except ChatError as error:
        raise BenchError(f"the server does not answer: {error}") from None


def request_set(workload: Workload, found: Calibration, disconnects: float) -> RequestSet:
    return RequestSet(workload, found.tokens_per_word, disconnects)
