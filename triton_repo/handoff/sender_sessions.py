"""The streams that language servers have opened to this encode server, and their buffers."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

from triton_repo.handoff.errors import HandoffError, TransportFailed, TypeMismatch, Unreachable
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.messages import Open
from triton_repo.handoff.transports import BlockWriter, block_writer

log = logging.getLogger(__name__)

# Heartbeats that may fail to come, before a stream counts as gone.
MISSED_HEARTBEATS = 3


class Session:
    """One stream of one language server.

    Attributes:
        id: that the language server chose.
        writer: into its block buffers.
    """

    def __init__(self, opening: Open, writer: BlockWriter) -> None:
        self.id, self.writer = opening.session, writer
        self._patience = opening.heartbeat_seconds * MISSED_HEARTBEATS
        self.touch()

    def touch(self) -> None:
        """It gave a sign of life."""
        self._heard = time.monotonic()

    @property
    def silent(self) -> bool:
        return time.monotonic() - self._heard > self._patience


class Sessions:
    """All streams; used from any thread.

    Args:
        description: the rows of this side.
    """

    def __init__(self, description: RowsDescription) -> None:
        self._description = description
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def open(self, opening: Open) -> Session:
        """A stream begins.

        Raises:
            TypeMismatch: the other side expects other rows.
            TransportFailed: its block buffers cannot be reached.
        """
        own = dataclasses.asdict(self._description)
        differing = [f"{name} is {opening.rows.get(name)!r} there and {value!r} here" for name, value in own.items()
                     if opening.rows.get(name) != value]
        if differing:
            raise TypeMismatch(f"the language server expects other visual rows ({'; '.join(differing)}): build both "
                               "servers from the same checkpoint, with the same vision engine")
        try:
            writer = block_writer(opening.transport, opening.buffers)
        except HandoffError:
            raise
        except Exception as error:
            log.exception("the block buffers of a language server could not be reached")
            raise TransportFailed(f"{opening.transport} does not reach the language server's block buffers: "
                                  f"{type(error).__name__}: {error}") from error
        session = Session(opening, writer)
        with self._lock:
            self._sessions[session.id] = session
        return session

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

    def drop_silent(self) -> list[Session]:
        """Close the streams that have given no sign of life, and return them."""
        with self._lock:
            silent = [session for session in self._sessions.values() if session.silent]
            for session in silent:
                del self._sessions[session.id]
        for session in silent:
            session.writer.close()
        return silent

    def close(self) -> None:
        """Let go of all buffers."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.writer.close()
