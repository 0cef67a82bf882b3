"""What has been generated for one request, and what of it whoever asked has been sent."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np

from engines.batching.emitter import Emitter
from engines.batching.request import Emission, GenerationRequest, OnOutput, Ticket

log = logging.getLogger(__name__)


class Answer:
    """Takes the tokens of one request, whichever engine chose them, and sends emissions.

    Attributes:
        generated: tokens taken so far, an end-of-text token included.

    Args:
        token_bytes: bytes of each token id; empty for special tokens.
        eos_token_ids: tokens that end the answer and have no text.
        capacity: prompt and answer together at most, in tokens.
    """

    def __init__(self, request: GenerationRequest, on_output: OnOutput, ticket: Ticket, token_bytes: Sequence[bytes],
                 eos_token_ids: Collection[int], capacity: int):
        self.request, self.ticket, self._on_output = request, ticket, on_output
        self.generated = 0
        self.max_tokens = min(request.sampling.max_tokens, capacity - len(request.token_ids))
        self._eos_token_ids, self._streams = eos_token_ids, request.sampling.stream
        self._emitter = Emitter(token_bytes, tuple(stop.encode() for stop in request.sampling.stop))

    @property
    def prompt_length(self) -> int:
        return len(self.request.token_ids)

    def accept(self, token: int) -> str:
        """Take the next token and send what can be shown. Returns the finish reason, "" while there is more."""
        self.generated += 1
        if token in self._eos_token_ids or self._emitter.push(token):
            return "stop"
        if self.generated >= self.max_tokens:
            return "length"
        if self._streams:
            ids, text_bytes = self._emitter.take()
            if ids:
                self._send(ids, text_bytes, "")
        return ""

    def finish(self, reason: str) -> None:
        """Send the last emission."""
        self._send(*self._emitter.flush(), reason)

    def fail(self, error: Exception) -> None:
        self._deliver(error)

    def _send(self, ids: list[int], text_bytes: int, reason: str) -> None:
        self._deliver(Emission(np.array(ids, np.int32), text_bytes, reason, self.prompt_length, self.generated))

    def _deliver(self, output: Emission | Exception) -> None:
        try:
            self._on_output(output)
        except Exception:
            # Whoever asked is gone or broken: the other requests go on.
            log.exception("an output could not be delivered; its request is cancelled")
            self.ticket.cancel()
