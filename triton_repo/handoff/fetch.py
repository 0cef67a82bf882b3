"""One `fetch`: drives a transfer's state machine with what happens, in the thread that asked."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.blocks import tokens_per_block
from triton_repo.handoff.errors import Cancelled, HandoffError, TimedOut, Unreachable, error_from
from triton_repo.handoff.events import Event, Lost, NotOpened, Opened, Said, Slots
from triton_repo.handoff.job import EncodeJob, RowsDescription
from triton_repo.handoff.messages import Message
from triton_repo.handoff.received_rows import ReceivedRows
from triton_repo.handoff.receiver_patience import Patience
from triton_repo.handoff.receiver_transfer import ReceiverTransfer, Step
from triton_repo.handoff.settings import ReceiverSettings
from triton_repo.handoff.slots import Waiter
from triton_repo.handoff.stream import Stream

# How soon a cancellation is seen.
POLL_SECONDS = 0.1
# Between two tries to get a stream.
RETRY_SECONDS = 0.2


class Fetch:
    """The rows of one job, on their way.

    Attributes:
        transfer: its id.
        events: what happens; put in from any thread.

    Args:
        job: what is wanted.
        description: the rows that are expected.
        settings: how patient this side is.
        want_stream: asks for `Opened` or `NotOpened`.
    """

    def __init__(self, job: EncodeJob, description: RowsDescription, settings: ReceiverSettings,
                 want_stream: Callable[[queue.SimpleQueue[Event]], None]) -> None:
        self.transfer = secrets.token_hex(8)
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._job, self._description, self._want_stream = job, description, want_stream
        self._rows = ReceivedRows(job, description)
        self._machine = ReceiverTransfer(self.transfer, job, self._rows.tokens, Patience(
            settings.stall_seconds, settings.attempts, settings.corrupt_blocks))
        self._stream: Stream | None = None
        self._waiter: Waiter | None = None
        self._retry_at: float | None = None

    def run(self, deadline: float, cancelled: Callable[[], bool]) -> np.ndarray:
        """Get the rows. See `EncodeConnection.fetch`."""
        self._want_stream(self.events)
        try:
            while not self.over:
                self.look_at_clock(time.monotonic(), deadline, cancelled)
                if not self.over:
                    self._next()
        finally:
            self.leave()
        return self.result()

    @property
    def over(self) -> bool:
        """Whether there are all rows, or an error."""
        return self._machine.state.over

    def result(self) -> np.ndarray:
        """The rows of a transfer that is over; raises its error."""
        if self._machine.error is not None:
            raise self._machine.error
        return self._rows.array

    def leave(self) -> None:
        """End the transfer, if it is not over, and give back what it has."""
        self._apply(self._machine.fail(Cancelled("an error ended this transfer")))
        self._leave_line()

    def look_at_clock(self, now: float, deadline: float, cancelled: Callable[[], bool]) -> None:
        """What the passing of time and the caller's wishes make necessary."""
        if now >= deadline:
            self._apply(self._machine.fail(TimedOut(f"the rows of an image were not there in time; the transfer was "
                                                    f"{self._machine.state.name.lower()}")))
        elif cancelled():
            self._apply(self._machine.fail(Cancelled("the rows are not wanted any more")))
        elif self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._want_stream(self.events)
        self._apply(self._machine.tick(now))

    def _next(self) -> None:
        try:
            event = self.events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return
        self.take(event, time.monotonic())
        if self._stream is not None:
            # There is time while the encoder works.
            self._rows.map_memory()

    def take(self, event: Event, now: float) -> None:
        """Something happened."""
        self._apply(self._happened(event, now))
        self._get_in_line()

    def _happened(self, event: Event, now: float) -> Step:
        machine = self._machine
        match event:
            case Opened(stream):
                if stream.lost:
                    return self._no_stream(Unreachable("the stream broke as soon as it was open"), now)
                self._stream = stream
                block = tokens_per_block(stream.buffers.slot_bytes, self._description.token_bytes)
                return machine.stream_opened(stream.session, block, now, stream.slots.spare(machine.early(block)))
            case NotOpened(error):
                return self._no_stream(error, now)
            case Lost(stream, error):
                if stream is self._stream:
                    self._stream = self._waiter = None
                    return self._no_stream(error, now)
            case Slots(stream, slots):
                if stream is self._stream:
                    self._waiter = None
                    return machine.grant(slots, now)
                # Of a stream that is lost: nobody needs them.
            case Said(stream, message, payload):
                if stream is self._stream:
                    return self._said(message, payload, now)
        return Step()

    def _no_stream(self, error: HandoffError, now: float) -> Step:
        if not isinstance(error, Unreachable):
            return self._machine.fail(error)
        self._retry_at = now + RETRY_SECONDS
        return self._machine.stream_lost(error, now)

    def _said(self, message: Message, payload: np.ndarray | None, now: float) -> Step:
        machine = self._machine
        match message:
            case messages.Accepted():
                return machine.accepted(message.attempt, now)
            case messages.Unknown():
                return machine.unknown(message.attempt, now)
            case messages.Failed():
                return machine.failed(message.attempt, error_from(message.code, message.text))
            case messages.Ready():
                if (error := self._rows.mismatch(message, self._rows.tokens)) is not None:
                    return machine.fail(error)
                return machine.ready(message.attempt, message.encoding, now)
            case messages.Block():
                return self._block(message, payload, now)
        return Step()

    def _block(self, block: messages.Block, payload: np.ndarray | None, now: float) -> Step:
        self._apply(self._machine.announced(block, now))
        if not self._machine.expects(block):
            return Step()
        if (error := self._rows.mismatch(block, block.tokens)) is not None:
            return self._machine.fail(error)
        return self._machine.read(block, self._rows.read(block, payload, self._stream.buffers), now)

    def _apply(self, step: Step) -> None:
        stream = self._stream
        if stream is None:
            return
        for message in step.send:
            if isinstance(message, messages.Release | messages.Cancel):
                stream.quarantine.add(self.transfer, message, self._machine.held)
            media = np.frombuffer(self._job.media, np.uint8) if isinstance(message, messages.Request) else None
            stream.send(message, media)
        if step.free:
            stream.slots.give_back(step.free)

    def _get_in_line(self) -> None:
        if self._waiter is None and self._stream is not None and (wanted := self._machine.wanted):
            stream = self._stream
            self._waiter = Waiter(wanted, lambda slots: self.events.put(Slots(stream, slots)))
            stream.slots.request(self._waiter)

    def _leave_line(self) -> None:
        """Give back slots that come too late."""
        if self._waiter is None or self._stream.slots.forget(self._waiter):
            return
        while not isinstance(event := self.events.get(), Slots) or event.stream is not self._stream:
            pass
        self._stream.slots.give_back(event.slots)
