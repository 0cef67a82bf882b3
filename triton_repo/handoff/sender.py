"""The encode side: takes messages from language servers, has media encoded, sends rows."""

from __future__ import annotations

import logging
import secrets
import threading
import time

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.blocks import checksum
from triton_repo.handoff.encode_task import Encoder
from triton_repo.handoff.errors import HandoffError, ProtocolError
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.messages import Message
from triton_repo.handoff.reply import Reply, Way
from triton_repo.handoff.sender_sessions import Sessions
from triton_repo.handoff.sender_transfers import SenderStats, SenderTransfers
from triton_repo.handoff.settings import SenderSettings

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5


class HandoffSender:
    """Serves any number of language servers.

    Args:
        encode: gets each job; must return soon, and call `task.deliver` once, from any thread.
        description: the rows that it makes.
        settings: how patient and large this side is.
    """

    def __init__(self, encode: Encoder, description: RowsDescription, settings: SenderSettings | None = None) -> None:
        self._instance = secrets.token_hex(8)
        self._sessions = Sessions(description)
        self._transfers = SenderTransfers(encode, description, settings or SenderSettings())
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._write, name="handoff blocks", daemon=True),
                         threading.Thread(target=self._look_after, name="handoff patience", daemon=True)]
        for thread in self._threads:
            thread.start()

    def handle(self, message: bytes, payload: np.ndarray | None, reply: Reply) -> None:
        """Take one request to the model `encode`; may be called from any thread, and returns at once.

        Args:
            message: the tensor `message`.
            payload: the tensor `payload`, uint8 [bytes], if there is one.
            reply: for what comes of it.
        """
        way, kept = Way(reply), False
        try:
            kept = self._take(messages.decode_message(message), payload, way)
        except HandoffError as error:
            way.send(messages.Rejected(error.code, str(error)))
        if not kept:
            way.finish()

    def stats(self) -> SenderStats:
        """What is going on."""
        return self._transfers.stats()

    def close(self) -> None:
        """Fail what is not over, let go of everything."""
        self._closed.set()
        self._transfers.writes.put(None)
        for thread in self._threads:
            thread.join()
        self._transfers.close()
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
                return self._transfers.asked(message, payload, self._sessions.get(message.session), way)
            case messages.Grant():
                self._transfers.granted(message)
            case messages.Release() | messages.Cancel():
                self._transfers.closing(message, way)
            case _:
                raise ProtocolError(f"a {message.type} message came to an encode server")
        return False

    def _write(self) -> None:
        while (write := self._transfers.writes.get()) is not None:
            payload, digest, error = None, 0, None
            try:
                digest = checksum(write.rows)
                payload = write.session.writer.write(write.block.slot, write.rows)
            except Exception as failure:
                log.warning("a block could not be written: %s", failure)
                error = str(failure)
            self._transfers.written(write, payload, digest, error)

    def _look_after(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            try:
                silent = {session.id for session in self._sessions.drop_silent()}
                self._transfers.tick(time.monotonic(), silent)
            except Exception:
                log.exception("transfers could not be looked after")
