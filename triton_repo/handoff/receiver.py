"""The language side: gets rows from one encode server, many transfers at once over one stream."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.blocks import tokens_per_block
from triton_repo.handoff.errors import Cancelled, HandoffError, TransportFailed, TypeMismatch, Unreachable
from triton_repo.handoff.events import Event, Lost, NotOpened, Opened, Said
from triton_repo.handoff.fetch import Fetch
from triton_repo.handoff.job import EncodeJob, RowsDescription
from triton_repo.handoff.messages import Message
from triton_repo.handoff.settings import ReceiverSettings
from triton_repo.handoff.stream import Stream
from triton_repo.handoff.transports import candidates

log = logging.getLogger(__name__)

# How long fetches may take to end when the connection is closed.
CLOSE_SECONDS = 1.0


@dataclass(frozen=True)
class Health:
    """How an encode server does.

    Attributes:
        instance: another one after each start.
        round_trip: seconds of a heartbeat.
        transfers: of all language servers, that are not over.
        rows_for_others: visual rows still to be encoded for or sent to other language servers.
    """

    instance: str
    round_trip: float
    transfers: int
    rows_for_others: int


class EncodeConnection:
    """A connection to one encode server, made when it is first needed and again when it broke.

    Args:
        url: host:port of its gRPC endpoint.
        transport: by which rows come: one of `transports.CHOICES`.
        description: the rows that are expected.
        settings: how patient and large this side is.

    Raises:
        ArtifactError: not even one visual token fits into a block buffer.
    """

    def __init__(self, url: str, transport: str, description: RowsDescription,
                 settings: ReceiverSettings | None = None) -> None:
        self.url = url
        self._transport, self._description = transport, description
        self._settings = settings or ReceiverSettings()
        tokens_per_block(self._settings.block_bytes, description.token_bytes)
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._fetches: dict[str, Fetch] = {}
        self._stream: Stream | None = None
        self._waiting: list[queue.SimpleQueue[Event]] = []
        self._closed = False

    def fetch(self, job: EncodeJob, deadline: float, cancelled: Callable[[], bool] = lambda: False) -> np.ndarray:
        """Have a job encoded and get its rows. Blocks; may be called from any number of threads at once.

        Args:
            job: what is wanted.
            deadline: by `time.monotonic`.
            cancelled: whether the rows are not wanted any more; asked now and then.

        Returns:
            Rows [(1 + D) * tokens, hidden] of the described dtype, all of one encoding.

        Raises:
            Refused: the encode server finds the media invalid.
            HandoffError: it did not work; `another_may_help` says whether another encode server may be tried.
        """
        if self._description.tokens(job.grid) < 1:
            raise TypeMismatch(f"a grid of {job.grid} has no visual tokens")
        fetch = Fetch(job, self._description, self._settings, self._want_stream)
        with self._lock:
            self._fetches[fetch.transfer] = fetch
        try:
            return fetch.run(deadline, cancelled)
        finally:
            with self._lock:
                del self._fetches[fetch.transfer]
                self._ended.notify_all()

    def health(self) -> Health:
        """Ask the encode server how it does; takes as long as `connect_seconds` at most, twice if it has to connect.

        Raises:
            HandoffError: there is no answer, or the server does not fit this side.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._want_stream(events)
        try:
            event = events.get(timeout=2 * self._settings.connect_seconds)
        except queue.Empty:
            raise Unreachable(f"{self.url} could not be connected to") from None
        if isinstance(event, NotOpened):
            raise event.error
        started = time.monotonic()
        pong = event.stream.ping(self._settings.connect_seconds)
        return Health(pong.instance, time.monotonic() - started, pong.transfers, pong.rows_for_others)

    def close(self) -> None:
        """End everything: what is being fetched fails as `Cancelled`, and the sender is told."""
        with self._lock:
            self._closed, stream = True, self._stream
            for fetch in self._fetches.values():
                fetch.events.put(NotOpened(self._closed_error()))
            self._ended.wait_for(lambda: not self._fetches, CLOSE_SECONDS)
        if stream is not None:
            stream.finish(self._closed_error())

    def _want_stream(self, events: queue.SimpleQueue[Event]) -> None:
        """Have `Opened` or `NotOpened` put in: at once, or when the one attempt for all who wait has ended."""
        with self._lock:
            if self._closed:
                events.put(NotOpened(self._closed_error()))
            elif self._stream is not None and not self._stream.lost:
                events.put(Opened(self._stream))
            else:
                self._waiting.append(events)
                if len(self._waiting) == 1:
                    threading.Thread(target=self._open, name="handoff open", daemon=True).start()

    def _open(self) -> None:
        stream: Stream | None = None
        try:
            stream = self._new_stream()
            event: Event = Opened(stream)
        except HandoffError as error:
            event = NotOpened(error)
        except Exception as error:
            event = NotOpened(Unreachable(f"{self.url}: {type(error).__name__}: {error}"))
        with self._lock:
            self._stream, closed = stream, self._closed
            waiting, self._waiting = self._waiting, []
        for events in waiting:
            events.put(event)
        if closed and stream is not None:
            stream.close(self._closed_error())

    def _new_stream(self) -> Stream:
        """A stream by the first transport that reaches the encode server; raises what it does by the last."""
        *others, last = candidates(self._transport)
        for transport in others:
            try:
                return self._stream_by(transport)
            except TransportFailed as problem:
                log.info("rows do not come by %s: %s", transport, problem)
        return self._stream_by(last)

    def _stream_by(self, transport: str) -> Stream:
        return Stream(self.url, transport, self._description, self._settings, self._said, self._lost)

    def _said(self, stream: Stream, message: Message, payload: np.ndarray | None) -> None:
        with self._lock:
            fetch = self._fetches.get(message.transfer)
        if fetch is not None:
            fetch.events.put(Said(stream, message, payload))
        elif message.transfer not in stream.quarantine and not isinstance(message, messages.Failed):
            # Nobody waits for it: a request of it was overtaken by its end.
            stream.send(messages.Cancel(message.transfer))

    def _lost(self, stream: Stream, error: HandoffError) -> None:
        with self._lock:
            fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.events.put(Lost(stream, error))

    def _closed_error(self) -> Cancelled:
        return Cancelled(f"the connection to {self.url} was closed")
