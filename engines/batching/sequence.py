"""The state of one request between its submission and its last emission."""

from __future__ import annotations

import logging
from collections.abc import Sequence as SequenceOf

import numpy as np

from engines.batching.emitter import Emitter
from engines.batching.request import Emission, GenerationRequest, OnOutput, Ticket
from engines.batching.sampler import Sampler

log = logging.getLogger(__name__)


class Sequence:
    """One request being served.

    Attributes:
        slot: where its keys and values are in the cache.
        cached: tokens in the cache.
        last_token: the newest token, not yet in the cache once the prompt is.
    """

    def __init__(self, request: GenerationRequest, on_output: OnOutput, ticket: Ticket,
                 token_bytes: SequenceOf[bytes], vocab_size: int):
        self.request, self.ticket, self._on_output = request, ticket, on_output
        self.slot, self.cached, self.generated, self.last_token = -1, 0, 0, -1
        self._sampler = Sampler(request.sampling, request.token_ids, vocab_size)
        self._emitter = Emitter(token_bytes, tuple(stop.encode() for stop in request.sampling.stop))

    @property
    def prompt_length(self) -> int:
        return len(self.request.token_ids)

    @property
    def prefilled(self) -> bool:
        return self.cached >= self.prompt_length

    @property
    def next_position(self) -> int:
        """M-RoPE position of the token that goes into the cache next, once the prompt is there."""
        return self.cached + self.request.rope_delta

    def accept(self, logits: np.ndarray, eos_token_ids: SequenceOf[int], capacity: int) -> str:
        """Choose the next token and send what can be shown. Returns the finish reason, "" while there is more."""
        token = self._sampler.sample(logits)
        self.generated += 1
        self.last_token = token
        if token in eos_token_ids or self._emitter.push(token):
            return "stop"
        if self.generated >= self.request.sampling.max_tokens or self.cached + 1 >= capacity:
            return "length"
        if self.request.sampling.stream and (ids := self._emitter.take()):
            self._send(ids, None, "")
        return ""

    def finish(self, reason: str) -> None:
        """Send the last emission."""
        ids, text_bytes = self._emitter.flush()
        self._send(ids, text_bytes, reason)

    def fail(self, error: Exception) -> None:
        self._deliver(error)

    def _send(self, ids: list[int], text_bytes: int | None, reason: str) -> None:
        if text_bytes is None:
            text_bytes = sum(len(self._emitter.token_bytes[i]) for i in ids)
        self._deliver(Emission(np.array(ids, np.int32), text_bytes, reason, self.prompt_length, self.generated))

    def _deliver(self, output: Emission | Exception) -> None:
        try:
            self._on_output(output)
        except Exception:
            # Whoever asked is gone or broken: the other requests go on.
            log.exception("an output could not be delivered; its request is cancelled")
            self.ticket.cancel()
