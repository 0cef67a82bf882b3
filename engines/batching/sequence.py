"""The state of one request between its submission and its last emission."""

from __future__ import annotations

from engines.batching.answer import Answer
from engines.batching.sampler import Sampler


class Sequence:
    """One request being served.

    Attributes:
        answer: what was generated, and how it is sent.
        slot: where its keys and values are in the cache.
        cached: tokens in the cache, once all steps that have begun are computed.
        last_token: the newest token that is known.
        sampler: how its tokens are chosen.
    """

    def __init__(self, answer: Answer, vocab_size: int):
        self.answer, self.request, self.ticket = answer, answer.request, answer.ticket
        self.slot, self.cached, self.last_token = -1, 0, -1
        self.sampler = Sampler(self.request.sampling, self.request.token_ids, vocab_size)

    @property
    def remaining(self) -> int:
        """Prompt tokens that are not in the cache yet."""
        return max(0, self.answer.prompt_length - self.cached)

    @property
    def next_position(self) -> int:
        """M-RoPE position of the token that goes into the cache next, once the prompt is there."""
        return self.cached + self.request.rope_delta

    def ends_with_next(self) -> bool:
        """Whether the next token is the last one in any case."""
        return self.answer.generated + 1 >= self.answer.max_tokens
