"""How the decoder learns that a client is gone.

Triton tells a step of an ensemble about a cancellation only if it came before the step was scheduled: a decoder that is
generating never hears of one. But every response of the decoder schedules postprocess, and that request does know. So
the decoder sends, now and then, a probe for each request it is serving: a response without text, which postprocess
swallows and answers, where the client is gone, by a datagram to the address in the probe.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable


class CancellationListener:
    """Receives cancellations at an address of its own, for as long as the process lives.

    Args:
        on_cancel: called with the id of a request, from a thread of the listener.
    """

    def __init__(self, on_cancel: Callable[[str], None]) -> None:
        # Linux's abstract namespace: no file to clean up, gone with the process. Ids are random, so nobody else on
        # the machine can cancel a request.
        self._address = f"qwen3vl-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(_socket_name(self._address))
        self._on_cancel = on_cancel
        threading.Thread(target=self._listen, name="cancellations", daemon=True).start()

    def probe(self, request_id: str) -> str:
        """What a probe of this request carries."""
        return f"{self._address}/{request_id}"

    def _listen(self) -> None:
        while True:
            self._on_cancel(self._socket.recv(256).decode("ascii", "replace"))


def new_request_id() -> str:
    return secrets.token_hex(16)


def cancel(probe: str) -> None:
    """Cancel the request that a probe came from; nothing happens if its decoder is gone."""
    address, _, request_id = probe.partition("/")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(request_id.encode(), _socket_name(address))
        except OSError:
            # The decoder is gone or its queue is full; in the second case the next probe will do.
            return


def _socket_name(address: str) -> str:
    return f"\0{address}"
