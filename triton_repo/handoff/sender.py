"""The encode side: takes messages from language servers, has media encoded, sends rows."""

from __future__ import annotations

import logging
import secrets
import threading
import time

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.encode_task import Encoder
from triton_repo.handoff.errors import HandoffError, ProtocolError
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.messages import Message
from triton_repo.handoff.reply import Reply, Way
from triton_repo.handoff.sender_records import SenderStats
from triton_repo.handoff.sender_sessions import Sessions
from triton_repo.handoff.sender_transfers import SenderTransfers
from triton_repo.handoff.settings import SenderSettings
from triton_repo.handoff.wire import decode_message

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
        self._transfers = SenderTransfers(encode, description, settings or SenderSettings())
        self._sessions = Sessions(description, self._instance, self._transfers.written)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="handoff patience", daemon=True)
        self._thread.start()

    def handle(self, message: bytes, payload: np.ndarray | None, reply: Reply) -> None:
        """Take one request to the model `encode`; may be called from any thread, and returns at once.

        Args:
            message: the tensor `message`.
            payload: the tensor `payload`, uint8 [bytes], if there is one.
            reply: for what comes of it.
        """
        way, kept = Way(reply), False
        try:
            kept = self._take(decode_message(message), payload, way)
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
        self._thread.join()
        self._transfers.close()
        self._sessions.close()

    def _take(self, message: Message, payload: np.ndarray | None, way: Way) -> bool:
        """Returns whether `way` is kept for what follows."""
        match message:
            case messages.Open():
                self._sessions.open(message, way)
                return True
            case messages.Ping():
                others = self._transfers.rows_for_others(self._sessions.get(message.session))
                way.send(messages.Pong(message.number, self._instance, self.stats().transfers, others))
            case messages.Request() | messages.Resume():
                return self._transfers.asked(message, payload, self._sessions.get(message.session), way)
            case messages.Grant():
                self._transfers.granted(message)
            case messages.Release() | messages.Cancel():
                self._transfers.closing(message, way)
            case _:
                raise ProtocolError(f"a {message.type} message came to an encode server")
        return False

    def _look_after(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            try:
                silent = self._sessions.silent()
                self._transfers.tick(time.monotonic(), silent)
                self._sessions.drop(silent)
            except Exception:
                log.exception("transfers could not be looked after")
