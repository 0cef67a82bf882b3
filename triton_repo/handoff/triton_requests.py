"""Requests to the Triton model `encode`, given to a sender. Importable only in a process of the Python backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import triton_python_backend_utils as pb_utils

from triton_repo import backend
from triton_repo.handoff.sender import HandoffSender


def handle_requests(sender: HandoffSender, requests: Sequence[pb_utils.InferenceRequest]) -> None:
    """What the model's `execute` does."""
    for request in requests:
        tensors = backend.inputs_of(request)
        sender.handle(tensors["message"].tobytes(), tensors.get("payload"), TritonReply(request.get_response_sender()))


class TritonReply:
    """See `reply.Reply`."""

    def __init__(self, sender: pb_utils.InferenceResponseSender) -> None:
        self._sender = sender

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        tensors = {"message": np.frombuffer(message, np.uint8)}
        if payload is not None:
            tensors["payload"] = payload
        self._sender.send(backend.response(tensors))

    def finish(self) -> None:
        self._sender.send(flags=backend.FINAL)

    def cancelled(self) -> bool:
        return self._sender.is_cancelled()
