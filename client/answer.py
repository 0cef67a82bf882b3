"""What comes back: answers, and the pieces they are streamed in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """Tokens so far: of the prompt, images included, and of the answer, its end token included."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Delta:
    """A piece of an answer.

    Attributes:
        text: never ends within a character.
        finish_reason: "" but for the last piece: "stop", "length" or "cancelled".
        usage: tokens up to this piece.
    """

    text: str
    finish_reason: str
    usage: Usage

    @classmethod
    def from_server(cls, text: bytes | str, finish_reason: bytes | str, usage: bytes | str) -> Delta:
        """From the server's outputs of these names."""
        return cls(_str(text), _str(finish_reason), Usage(**json.loads(usage)))


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        finish_reason: "stop" if the model ended it, "length" if a limit did, "cancelled".
    """

    text: str
    finish_reason: str
    usage: Usage


def joined(deltas: Iterable[Delta]) -> Answer:
    """The answer that these pieces, at least one, are of."""
    deltas = list(deltas)
    return Answer("".join(delta.text for delta in deltas), deltas[-1].finish_reason, deltas[-1].usage)


def _str(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
