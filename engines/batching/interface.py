"""What the server needs of a decoder, whichever engine it runs on."""

from __future__ import annotations

from typing import Protocol

from engines.batching.request import BatcherStats, GenerationRequest, OnOutput, Ticket


class InFlightBatcher(Protocol):
    """Serves requests that join and leave at any time; `engines.batching.batcher.Batcher` says how."""

    def submit(self, request: GenerationRequest, on_output: OnOutput) -> Ticket: ...

    def stats(self) -> BatcherStats: ...

    def close(self) -> None: ...
