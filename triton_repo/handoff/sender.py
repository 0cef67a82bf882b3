"""The encode side: takes messages from language servers, has media encoded, sends rows."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.blocks import GrantedBlock, checksum
from triton_repo.handoff.encode_task import Encoder, EncodeTask
from triton_repo.handoff.errors import Busy, HandoffError, ProtocolError, TypeMismatch, Unreachable, error_of
from triton_repo.handoff.job import EncodeJob, RowsDescription
from triton_repo.handoff.messages import Message
from triton_repo.handoff.reply import Reply, Way
from triton_repo.handoff.sender_sessions import Session, Sessions
from triton_repo.handoff.sender_transfer import Action, Encode, Forget, SayBlock, SayReady, SenderTransfer, Write
from triton_repo.handoff.settings import SenderSettings
from triton_repo.handoff.states import State

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5


@dataclass(frozen=True)
class SenderStats:
    """Attributes:
        transfers: that are not over.
        outstanding_rows: of these, still to be encoded or sent.
        held_bytes: encoded rows that wait to be fetched.
        sent_blocks, sent_bytes: since the start.
        succeeded, failed: transfers that are over, by how they ended.
    """

    transfers: int
    outstanding_rows: int
    held_bytes: int
    sent_blocks: int
    sent_bytes: int
    succeeded: int
    failed: int


@dataclass
class _Entry:
    """A transfer with what belongs to it."""

    machine: SenderTransfer
    job: EncodeJob
    tokens: int
    way: Way
    session: Session
    task: EncodeTask | None = None
    rows: np.ndarray | None = None
    encoding: str = ""
    sent_tokens: int = 0


@dataclass
class _Totals:
    blocks: int = 0
    bytes: int = 0
    ended: dict[State, int] = field(default_factory=lambda: {State.SUCCESS: 0, State.FAILED: 0})


class HandoffSender:
    """Serves any number of language servers.

    Args:
        encode: gets each job; must return soon, and call `task.deliver` once, from any thread.
        description: the rows that it makes.
        settings: how patient and large this side is.
    """

    def __init__(self, encode: Encoder, description: RowsDescription, settings: SenderSettings | None = None) -> None:
        self._encode, self._description = encode, description
        self._settings = settings or SenderSettings()
        self._instance = secrets.token_hex(8)
        self._sessions = Sessions(description)
        # Guards the transfers' state. Sending waits for nobody, but is done without it all the same.
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._totals = _Totals()
        self._writes: queue.SimpleQueue[tuple[_Entry, Session, GrantedBlock] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=loop, name=f"handoff {loop.__name__}", daemon=True)
                         for loop in (self._write_loop, self._tick_loop)]
        for thread in self._threads:
            thread.start()

    def handle(self, message: bytes, payload: np.ndarray | None, reply: Reply) -> None:
        """Take one request to the model `encode`; may be called from any thread, and returns at once.

        Args:
            message: the tensor `message`.
            payload: the tensor `payload`, uint8 [bytes], if there is one.
            reply: for what comes of it.
        """
        way = Way(reply)
        try:
            kept = self._take(messages.decode_message(message), payload, way)
        except HandoffError as error:
            way.send(messages.Rejected(error.code, str(error)))
            kept = False
        if not kept:
            way.finish()

    def stats(self) -> SenderStats:
        """What is going on."""
        with self._lock:
            entries, totals = list(self._entries.values()), self._totals
            rows = sum((entry.tokens - min(entry.sent_tokens, entry.tokens)) * self._description.rows_per_token
                       for entry in entries if not entry.machine.state.over)
            return SenderStats(len(entries), rows, self._held(), totals.blocks, totals.bytes,
                               totals.ended[State.SUCCESS], totals.ended[State.FAILED])

    def close(self) -> None:
        """Fail what is not over, let go of everything."""
        self._closed.set()
        self._writes.put(None)
        for thread in self._threads:
            thread.join()
        with self._lock:
            entries, self._entries = list(self._entries.values()), {}
        error = Unreachable("the encode server is being stopped")
        for entry in entries:
            entry.way.send(messages.Failed(entry.machine.transfer, entry.machine.attempt, error.code, str(error)))
            self._let_go(entry)
        self._sessions.close()

    def _take(self, message: Message, payload: np.ndarray | None, way: Way) -> bool:
        """Returns whether `way` is kept for what follows."""
        match message:
            case messages.Open():
                session = self._sessions.open(message)
                way.send(messages.Opened(session.id, self._instance, session.writer.answer()))
            case messages.Ping():
                self._sessions.get(message.session)
                stats = self.stats()
                way.send(messages.Pong(message.number, self._instance, stats.transfers, stats.outstanding_rows))
            case messages.Request() | messages.Resume():
                return self._asked(message, payload, way)
            case messages.Grant():
                blocks = _granted_blocks(message)
                self._step(message.transfer, lambda machine: machine.granted(message.attempt, blocks))
            case messages.Release() | messages.Cancel():
                state = State.SUCCESS if isinstance(message, messages.Release) else State.FAILED
                if not self._step(message.transfer, lambda machine: machine.closed(state)):
                    way.send(messages.Closed(message.transfer))
            case _:
                raise ProtocolError(f"a {message.type} message came to an encode server")
        return False

    def _asked(self, message: messages.Request | messages.Resume, payload: np.ndarray | None, way: Way) -> bool:
        session = self._sessions.get(message.session)
        with self._lock:
            entry = self._entries.get(message.transfer)
            if entry is None:
                if isinstance(message, messages.Resume):
                    way.send(messages.Unknown(message.transfer, message.attempt))
                    return False
                if (held := self._held()) > self._settings.held_bytes:
                    busy = Busy(f"{held} bytes of visual rows wait to be fetched, more than held_bytes = "
                                f"{self._settings.held_bytes}")
                    way.send(messages.Failed(message.transfer, message.attempt, busy.code, str(busy)))
                    return False
                entry = self._entry(message, payload, way, session)
                self._entries[message.transfer] = entry
            before = entry.machine.attempt
            actions = entry.machine.asked(message.attempt)
            if entry.machine.attempt == before:
                return False
            earlier, entry.way, entry.session = entry.way, way, session
        if earlier is not way:
            earlier.finish()
        self._do(entry, actions)
        return True

    def _entry(self, request: messages.Request, payload: np.ndarray | None, way: Way, session: Session) -> _Entry:
        try:
            job = EncodeJob(request.request_id, bytes.fromhex(request.image_hash),
                            b"" if payload is None else payload.tobytes(), request.kind, request.grid)
            tokens = self._description.tokens(job.grid)
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"a request of transfer {request.transfer} cannot be read: {error}") from None
        entry = _Entry(SenderTransfer(request.transfer), job, tokens, way, session)
        entry.task = EncodeTask(job, lambda rows: self._encoded(entry, rows))
        return entry

    def _encoded(self, entry: _Entry, rows: np.ndarray | Exception) -> None:
        if not isinstance(rows, Exception):
            try:
                rows = self._checked(entry, rows)
            except TypeMismatch as error:
                rows = error
        with self._lock:
            if entry.task.cancelled():
                return
            if isinstance(rows, Exception):
                actions = entry.machine.fail(error_of(rows))
            else:
                entry.rows, entry.encoding = rows, secrets.token_hex(8)
                actions = entry.machine.encoded(entry.tokens)
        self._do(entry, actions)

    def _checked(self, entry: _Entry, rows: np.ndarray) -> np.ndarray:
        description = self._description
        shape = (entry.tokens * description.rows_per_token, description.hidden)
        if rows.shape != shape or rows.dtype != description.numpy_dtype:
            raise TypeMismatch(f"the encoder made {rows.dtype} {list(rows.shape)} for a grid of {entry.job.grid}, "
                               f"expected {description.numpy_dtype} {list(shape)}")
        return np.ascontiguousarray(rows)

    def _step(self, transfer: str, event) -> bool:
        """Returns whether there is such a transfer."""
        with self._lock:
            entry = self._entries.get(transfer)
            actions = event(entry.machine) if entry else []
        if entry:
            self._do(entry, actions)
        return entry is not None

    def _do(self, entry: _Entry, actions: list[Action], payload: np.ndarray | None = None, digest: int = 0) -> None:
        for action in actions:
            match action:
                case Encode():
                    self._start(entry)
                case Write(block):
                    self._writes.put((entry, entry.session, block))
                case SayReady(attempt):
                    entry.way.send(messages.Ready(entry.machine.transfer, attempt, entry.encoding, entry.tokens,
                                                  *self._type(entry.tokens)))
                case SayBlock(attempt, block):
                    entry.way.send(messages.Block(
                        entry.machine.transfer, attempt, entry.encoding, entry.job.image_hash.hex(), block.number,
                        block.slot, block.first, block.tokens, *self._type(block.tokens), digest), payload)
                case Forget():
                    with self._lock:
                        self._entries.pop(entry.machine.transfer, None)
                        self._totals.ended[entry.machine.state] += 1
                    self._let_go(entry)
                case Message():
                    entry.way.send(action)

    def _type(self, tokens: int) -> tuple[int, int, str]:
        """Rows, hidden size and dtype, as messages say them."""
        return tokens * self._description.rows_per_token, self._description.hidden, self._description.dtype

    def _start(self, entry: _Entry) -> None:
        try:
            self._encode(entry.task)
        except Exception as error:
            log.exception("a job could not be given to the encoder")
            self._encoded(entry, error)

    def _let_go(self, entry: _Entry) -> None:
        entry.task.cancel()
        entry.rows = None
        entry.way.finish()

    def _held(self) -> int:
        return sum(entry.rows.nbytes for entry in self._entries.values() if entry.rows is not None)

    def _write_loop(self) -> None:
        while (item := self._writes.get()) is not None:
            entry, session, block = item
            payload, digest, error = None, 0, None
            try:
                rows_per_token = self._description.rows_per_token
                rows = entry.rows[block.first * rows_per_token:block.end * rows_per_token].reshape(-1).view(np.uint8)
                digest = checksum(rows)
                payload = session.writer.write(block.slot, rows)
            except Exception as failure:
                log.warning("a block could not be written: %s", failure)
                error = str(failure)
            with self._lock:
                actions = entry.machine.written(error)
                if any(isinstance(action, SayBlock) for action in actions):
                    entry.sent_tokens += block.tokens
                    self._totals.blocks += 1
                    self._totals.bytes += rows.nbytes
            self._do(entry, actions, payload, digest)

    def _tick_loop(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            try:
                self._tick(time.monotonic(), {session.id for session in self._sessions.drop_silent()})
            except Exception:
                log.exception("transfers could not be looked after")

    def _tick(self, now: float, silent: set[str]) -> None:
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            with self._lock:
                actions = []
                if entry.machine.attached and (entry.session.id in silent or entry.way.gone()):
                    actions += entry.machine.detached(now)
                    entry.way.finish()
                actions += entry.machine.tick(now, self._settings.retention_seconds)
            self._do(entry, actions)


def _granted_blocks(message: messages.Grant) -> list[GrantedBlock]:
    try:
        return [GrantedBlock(*block) for block in message.blocks]
    except TypeError:
        raise ProtocolError(f"a grant of transfer {message.transfer} cannot be read: {message.blocks!r:.80}") from None
