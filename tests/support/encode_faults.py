"""Ways in which an encode server can go wrong on its way back to the language server."""

from __future__ import annotations

import json
import threading

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.reply import Reply
from triton_repo.handoff.wire import VERSION, decode_message, encode_message


def faulty(fault: str, reply: Reply) -> Reply:
    """A reply with this fault: "" for none, or a key of `FAULTS`."""
    return FAULTS[fault](reply) if fault else reply


class _Through:
    """Passes everything on."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        self._reply.send(message, payload)

    def finish(self) -> None:
        self._reply.finish()

    def cancelled(self) -> bool:
        return self._reply.cancelled()


class _Duplicating(_Through):
    """Says everything twice."""

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        for _ in range(2):
            self._reply.send(message, payload)


class _Reordering(_Through):
    """Swaps each block with the next message, if one comes soon."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self._lock = threading.RLock()
        self._kept: tuple[bytes, np.ndarray | None] | None = None

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        with self._lock:
            if self._kept is None and isinstance(decode_message(message), messages.Block):
                self._kept = message, None if payload is None else payload.copy()
                threading.Timer(0.05, self._flush).start()
                return
            self._reply.send(message, payload)
            self._flush()

    def finish(self) -> None:
        with self._lock:
            self._flush()
            self._reply.finish()

    def _flush(self) -> None:
        with self._lock:
            kept, self._kept = self._kept, None
            if kept is not None:
                self._reply.send(*kept)


class _Corrupting(_Through):
    """Damages the payload or the checksum of every third block."""

    blocks = 0

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        block = decode_message(message)
        if isinstance(block, messages.Block):
            _Corrupting.blocks += 1
            if _Corrupting.blocks % 3 == 0 or self._always:
                if payload is None:
                    values = {**vars(block), "checksum": block.checksum ^ 1}
                    message = encode_message(messages.Block(**values))
                else:
                    payload = payload.copy()
                    payload[len(payload) // 2] ^= 0x10
        self._reply.send(message, payload)

    _always = False


class _AlwaysCorrupting(_Corrupting):
    """Damages every block."""

    _always = True


class _Losing(_Through):
    """Loses every fifth message but for those about streams."""

    sent = 0

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        if not isinstance(decode_message(message), messages.Opened | messages.Pong):
            _Losing.sent += 1
            if _Losing.sent % 5 == 0:
                return
        self._reply.send(message, payload)


class _OtherVersion(_Through):
    """Speaks the next version of the protocol."""

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        self._reply.send(encode_message(decode_message(message), VERSION + 1), payload)


class _OtherRows(_Through):
    """Offers rows of another dtype than was agreed on."""

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        ready = decode_message(message)
        if isinstance(ready, messages.Ready):
            message = encode_message(messages.Ready(**{**vars(ready), "dtype": "FP16"}))
        self._reply.send(message, payload)


class _Garbage(_Through):
    """Says something else instead of that rows are ready."""

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        if isinstance(decode_message(message), messages.Ready):
            message = json.dumps({"type": "ready"}).encode()
        self._reply.send(message, payload)


FAULTS = {"duplicate": _Duplicating, "reorder": _Reordering, "corrupt": _Corrupting, "corrupt all": _AlwaysCorrupting,
          "lose": _Losing, "version": _OtherVersion, "dtype": _OtherRows, "garbage": _Garbage}
