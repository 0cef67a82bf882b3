"""Sampling parameters of one request, validated once, here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from qwen3vl.errors import InvalidRequest

MAX_STOP_STRINGS = 16
MAX_SEED = 2**63 - 1
MAX_REAL = 1e9


@dataclass(frozen=True)
class SamplingParams:
    """How an answer is generated.

    Attributes:
        max_tokens: generated tokens at most.
        temperature: divides the logits before sampling; 0 takes the most likely token each time (greedy).
        top_p: sample among the most likely tokens whose probabilities add up to this.
        top_k: sample among this many most likely tokens; 0 for all.
        seed: makes sampling repeatable; None draws a fresh one.
        repetition_penalty: above 1 makes tokens of the prompt and the answer less likely to come again.
        stop: strings that end the answer; they are not part of it.
        stream: whether text is sent as it is generated.

    Raises:
        InvalidRequest: a value is of the wrong type or out of range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stream: bool = True

    def __post_init__(self) -> None:
        _whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _real("temperature", self.temperature, lambda value: value >= 0, "a number of at least 0 (0 is greedy)")
        _real("top_p", self.top_p, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
        _whole("top_k", self.top_k, 0, 2**31 - 1)
        if self.seed is not None:
            _whole("seed", self.seed, 0, MAX_SEED)
        _real("repetition_penalty", self.repetition_penalty, lambda value: value > 0, "a number above 0 (1 is off)")
        if not isinstance(self.stream, bool):
            raise InvalidRequest(f"stream is {self.stream!r}, expected true or false")
        object.__setattr__(self, "stop", _stop_strings(self.stop))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> SamplingParams:
        """Read a JSON object; parameters not given keep their defaults.

        Raises:
            InvalidRequest: the text is not a JSON object, or names or values are not valid.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"sampling parameters are not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise InvalidRequest(f"sampling parameters are a JSON {type(values).__name__}, expected an object such as "
                                 '{"max_tokens": 64}')
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict) -> SamplingParams:
        known = [field.name for field in fields(cls)]
        unknown = sorted(repr(name) for name in values if name not in known)
        if unknown:
            raise InvalidRequest(f"unknown parameter {', '.join(unknown)}: the parameters are {', '.join(known)}")
        return cls(**values)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidRequest(f"{name} is {value!r}, expected a whole number from {low} to {high}")


def _real(name: str, value: object, accepts: Callable[[float], bool], expected: str) -> None:
    # The bound also keeps out infinities, and whole numbers too large for a float.
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MAX_REAL
    if not number or not accepts(value):
        raise InvalidRequest(f"{name} is {value!r}, expected {expected}")


def _stop_strings(value: object) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, (list, tuple)) or not all(isinstance(item, str) and item for item in strings):
        raise InvalidRequest(f"stop is {value!r}, expected a string or a list of strings, none of them empty")
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop has {len(strings)} strings, expected at most {MAX_STOP_STRINGS}")
    return tuple(strings)
