"""The streams that language servers have opened to this encode server, and their buffers."""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
import time

from triton_repo.handoff import messages
from triton_repo.handoff.bulk import checksum
from triton_repo.handoff.errors import HandoffError, TransportFailed, TypeMismatch, Unreachable
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.reply import Way
from triton_repo.handoff.sender_records import OnWritten, PendingWrite
from triton_repo.handoff.transports import BlockWriter, block_writer

log = logging.getLogger(__name__)

# Heartbeats that may fail to come, before a stream counts as gone.
MISSED_HEARTBEATS = 3
# How long a block may still take that is being written when everything ends.
JOIN_SECONDS = 5.0


class Session:
    """One stream of one language server. A thread of its own writes its blocks: no receiver holds up another.

    Attributes:
        id: that the language server chose.

    Args:
        opening: what it said of itself.
        way: for the answer, which tells whether its buffers can be reached.
        instance: of this encode server.
        on_written: called after each block.
    """

    def __init__(self, opening: messages.Open, way: Way, instance: str, on_written: OnWritten) -> None:
        self.id = opening.session
        self._opening, self._instance, self._on_written = opening, instance, on_written
        self._patience = opening.heartbeat_seconds * MISSED_HEARTBEATS
        self._writes: queue.SimpleQueue[PendingWrite | None] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self.touch()
        self._thread = threading.Thread(target=self._run, args=(way,), name="handoff blocks", daemon=True)
        self._thread.start()

    def touch(self) -> None:
        """It gave a sign of life."""
        self._heard = time.monotonic()

    @property
    def silent(self) -> bool:
        return time.monotonic() - self._heard > self._patience

    def write(self, write: PendingWrite) -> None:
        """Have a block written."""
        with self._lock:
            closed = self._closed
            if not closed:
                self._writes.put(write)
        if closed:
            self._on_written(write, None, 0, "the stream is gone")

    def close(self) -> None:
        """Let go of the buffers, when what is to be written is."""
        with self._lock:
            self._closed = True
            self._writes.put(None)

    def join(self) -> None:
        self._thread.join(JOIN_SECONDS)

    def _run(self, way: Way) -> None:
        writer: BlockWriter | None = None
        try:
            writer = block_writer(self._opening.transport, self._opening.buffers)
            way.send(messages.Opened(self.id, self._instance, writer.answer()))
        except Exception as error:
            log.warning("the block buffers of a language server cannot be reached: %s", error, exc_info=True)
            code = error.code if isinstance(error, HandoffError) else TransportFailed.code
            way.send(messages.Rejected(code, f"{self._opening.transport} does not reach the language server's block "
                                             f"buffers: {error}"))
        way.finish()
        while (write := self._writes.get()) is not None:
            self._write(writer, write)
        if writer is not None:
            writer.close()

    def _write(self, writer: BlockWriter | None, write: PendingWrite) -> None:
        payload, digest, error = None, 0, None
        try:
            if writer is None or self._closed:
                raise TransportFailed("the language server's block buffers are out of reach")
            digest = checksum(write.rows)
            payload = writer.write(write.block.slot, write.rows)
        except Exception as failure:
            log.warning("a block could not be written: %s", failure)
            error = str(failure)
        self._on_written(write, payload, digest, error)


class Sessions:
    """All streams; used from any thread.

    Args:
        description: the rows of this side.
        instance: of this encode server.
        on_written: called after each block.
    """

    def __init__(self, description: RowsDescription, instance: str, on_written: OnWritten) -> None:
        self._description, self._instance, self._on_written = description, instance, on_written
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def open(self, opening: messages.Open, way: Way) -> None:
        """A stream begins; the answer comes from its own thread.

        Raises:
            TypeMismatch: the other side expects other rows.
        """
        own = dataclasses.asdict(self._description)
        differing = [f"{name} is {opening.rows.get(name)!r} there and {value!r} here" for name, value in own.items()
                     if opening.rows.get(name) != value]
        if differing:
            raise TypeMismatch(f"the language server expects other visual rows ({'; '.join(differing)}): build both "
                               "servers from the same checkpoint, with the same vision engine")
        with self._lock:
            self._sessions[opening.session] = Session(opening, way, self._instance, self._on_written)

    def get(self, session_id: str) -> Session:
        """A stream that is open, which this call is a sign of life of.

        Raises:
            Unreachable: there is none: this server was started anew, or lost its patience.
        """
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None:
            raise Unreachable("this encode server does not know the stream: it was started anew, or heard nothing of "
                              "it for too long")
        session.touch()
        return session

    def silent(self) -> set[str]:
        """Streams that have given no sign of life."""
        with self._lock:
            return {session.id for session in self._sessions.values() if session.silent}

    def drop(self, names: set[str]) -> None:
        """Close these streams; their buffers are let go of soon."""
        with self._lock:
            dropped = [self._sessions.pop(name) for name in names if name in self._sessions]
        for session in dropped:
            session.close()

    def close(self) -> None:
        """Close all streams and let go of all buffers."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.close()
        for session in sessions:
            session.join()
