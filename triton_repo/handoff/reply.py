"""The way back for what comes of one request to the Triton model `encode`."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

import numpy as np

from triton_repo.handoff.messages import Message
from triton_repo.handoff.wire import encode_message

log = logging.getLogger(__name__)


class Reply(Protocol):
    """Triton's response sender, as the model wraps it."""

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        """Send a message; payload is uint8 [bytes]."""

    def finish(self) -> None:
        """Nothing follows."""

    def cancelled(self) -> bool:
        """Whether the stream that the request came from is gone."""


class Way:
    """A reply that several threads use: whole messages, and none after the last."""

    def __init__(self, reply: Reply) -> None:
        self._reply, self._lock, self._finished = reply, threading.Lock(), False

    def send(self, message: Message, payload: np.ndarray | None = None) -> None:
        """Send, unless it is finished. If the client is gone, that is seen by `gone`."""
        with self._lock:
            if self._finished:
                return
            try:
                self._reply.send(encode_message(message), payload)
            except Exception:
                log.exception("a %s message could not be sent", message.type)

    def finish(self) -> None:
        """Nothing follows; does nothing the second time."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
            try:
                self._reply.finish()
            except Exception:
                log.exception("a request could not be finished")

    def gone(self) -> bool:
        """Whether the client's stream is gone, or nothing follows anyway."""
        # Under the lock: a response sender that is asked after its last response crashes tritonserver.
        with self._lock:
            return self._finished or self._reply.cancelled()
