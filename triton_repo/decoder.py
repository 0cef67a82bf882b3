"""The generating step: requests go to the in-flight batcher, its emissions back to whoever asked."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engines.batching.request import BatcherStats, Emission, GenerationRequest, Ticket
from engines.decoder_batcher import DecoderSettings, decoder_batcher
from engines.description import EngineDescription
from engines.dlpack import Borrowed
from engines.onnxruntime.device_memory import GpuMemory
from engines.onnxruntime.row_intake import RowIntake
from engines.visual_rows import VisualRows
from triton_repo.build_paths import BuildPaths
from triton_repo.cancellation import CancellationListener, new_request_id
from triton_repo.device_rows import waiting_bytes

log = logging.getLogger(__name__)

# The id of a request, and what came of it; None when it came itself.
Output = tuple[str, Emission | Exception | None]

# How soon the slot of a client that is gone gets free, at little cost for the others.
PROBE_SECONDS = 0.25


class Reply(Protocol):
    """The way back to one client: never called by two threads at once, nor after its last emission or its error.

    Triton lets go of a request with its last response. Asking about the request after that, or meanwhile from another
    thread, reads freed memory: tritonserver crashes.
    """

    def send(self, emission: Emission) -> None:
        """Send text; one with a finish reason is the last."""

    def fail(self, error: Exception) -> None:
        """Send an error; nothing may follow."""

    def probe(self, probe: str) -> None:
        """Ask whether the client is still there (see `triton_repo.cancellation`)."""

    def cancelled(self) -> bool:
        """Whether the client was known to be gone when the request came, or asks this model directly and is gone."""


@dataclass
class _Active:
    reply: Reply
    ticket: Ticket


class DecoderService:
    """Serves the decoder of one build.

    The batcher's thread must not wait for Triton, so a thread of its own sends everything: emissions and probes.

    Attributes:
        device_row_bytes, host_row_bytes: of visual rows that came in a GPU's memory, and in the host's.

    Args:
        build: the build whose engine to use.
        settings: how it is run.
        on_stats: called from the sending thread with what is going on, when requests come and end, and now and then.
    """

    def __init__(self, build: BuildPaths, settings: DecoderSettings,
                 on_stats: Callable[[BatcherStats], None]) -> None:
        self._batcher = decoder_batcher(build.engines, build.limits(), settings)
        self._waiting_bytes = waiting_bytes(EngineDescription.load(build.engines).config)
        self._intake: RowIntake | None = None
        self.device_row_bytes = self.host_row_bytes = 0
        self._on_stats = on_stats
        self._active: dict[str, _Active] = {}
        self._outputs: queue.SimpleQueue[Output | None] = queue.SimpleQueue()
        self._listener = CancellationListener(self._cancel)
        self._sender = threading.Thread(target=self._send_loop, name="sender", daemon=True)
        self._sender.start()

    def own(self, rows: np.ndarray | Borrowed) -> VisualRows:
        """Rows to make a request of; borrowed ones, which are in a GPU's memory, are copied before this returns.

        Called by one thread at a time.

        Raises:
            ArtifactError: the GPU's driver refuses it.
        """
        if isinstance(rows, np.ndarray):
            self.host_row_bytes += rows.nbytes
            return rows
        if self._intake is None:
            self._intake = RowIntake(GpuMemory(), self._waiting_bytes)
        owned = self._intake.take(rows)
        self.device_row_bytes += owned.nbytes
        return owned

    def submit(self, request: GenerationRequest, reply: Reply) -> None:
        """Queue a request; everything that comes of it, a refusal too, goes to `reply`, from the sending thread."""
        gone = reply.cancelled()
        request_id = new_request_id()
        active = self._active[request_id] = _Active(reply, Ticket())
        self._outputs.put((request_id, None))
        if gone:
            unasked = Emission(np.empty(0, np.int32), 0, "cancelled", len(request.token_ids), 0)
            self._outputs.put((request_id, unasked))
            return
        try:
            active.ticket = self._batcher.submit(request, lambda output: self._outputs.put((request_id, output)))
        except Exception as error:
            # Not raised: the sending thread may be probing this very reply.
            self._outputs.put((request_id, error))

    def stats(self) -> BatcherStats:
        return self._batcher.stats()

    def close(self) -> None:
        """Stop generating: unfinished requests get an error."""
        self._batcher.close()
        self._outputs.put(None)
        self._sender.join()

    def _cancel(self, request_id: str) -> None:
        if active := self._active.get(request_id):
            active.ticket.cancel()

    def _send_loop(self) -> None:
        next_probe = time.monotonic() + PROBE_SECONDS
        open_ = True
        while open_:
            outputs, open_ = self._next_outputs(next_probe)
            if any(output is None for _, output in outputs):
                self._report()
            ended = [self._send(request_id, output) for request_id, output in merged(outputs)]
            if any(ended):
                self._report()
            if time.monotonic() >= next_probe:
                self._probe()
                self._report()
                next_probe = time.monotonic() + PROBE_SECONDS

    def _next_outputs(self, until: float) -> tuple[list[Output], bool]:
        """All that the batcher has put out, waiting for it until then. False if there will be no more."""
        outputs = []
        while True:
            wait = 0.0 if outputs else max(0.0, until - time.monotonic())
            try:
                output = self._outputs.get(timeout=wait)
            except queue.Empty:
                return outputs, True
            if output is None:
                return outputs, False
            outputs.append(output)

    def _send(self, request_id: str, output: Emission | Exception) -> bool:
        """Send to whom it belongs. Returns whether it was the last."""
        active = self._active.get(request_id)
        if active is None:
            return False
        last = isinstance(output, Exception) or bool(output.finish_reason)
        if last:
            del self._active[request_id]
        try:
            if isinstance(output, Exception):
                active.reply.fail(output)
            else:
                active.reply.send(output)
        except Exception:
            log.exception("an answer could not be sent")
            active.ticket.cancel()
        return last

    def _probe(self) -> None:
        for request_id, active in list(self._active.items()):
            try:
                if active.reply.cancelled():
                    active.ticket.cancel()
                else:
                    active.reply.probe(self._listener.probe(request_id))
            except Exception:
                log.exception("a client could not be probed")
                active.ticket.cancel()

    def _report(self) -> None:
        try:
            self._on_stats(self.stats())
        except Exception:
            log.exception("the statistics could not be reported")


def merged(outputs: Iterable[Output]) -> list[tuple[str, Emission | Exception]]:
    """Join the emissions of a request that have piled up: a slow way out makes chunks larger, not later."""
    joined: dict[str, Emission | Exception] = {}
    for request_id, output in outputs:
        before = joined.get(request_id)
        if output is None:
            continue
        if isinstance(before, Emission) and isinstance(output, Emission):
            # Only a last emission has bytes that are no text, so the texts are one after the other.
            joined[request_id] = Emission(np.concatenate([before.token_ids, output.token_ids]),
                                          before.text_bytes + output.text_bytes, output.finish_reason,
                                          output.prompt_tokens, output.completion_tokens)
        else:
            joined[request_id] = output
    return list(joined.items())
