"""Answers over HTTP: `generate_stream` (server-sent events) as they come, `generate` whole."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

from client.answer import Delta
from client.errors import ServerError, ServerUnavailable, TimedOut, error_from
from client.request import Inputs, to_json

EVENT = b"data: "
# Errors that come after text has been sent: their status has been sent before.
LATE_ERROR = 500


class HttpStream:
    """The pieces of one answer, as they come.

    Args:
        url: host:port.
        timeout: seconds for the whole answer, None for any.
    """

    def __init__(self, url: str, model: str, inputs: Inputs, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._cancelled = threading.Event()
        stream = bool(inputs["stream"].item())
        self._connection = http.client.HTTPConnection(url, timeout=timeout)
        body = json.dumps(to_json(inputs)).encode()
        with self._failures(url):
            self._connection.request("POST", f"/v2/models/{model}/{'generate_stream' if stream else 'generate'}", body,
                                     {"Content-Type": "application/json"})
            self._socket = self._connection.sock
            self._limit_wait()
            self._response = self._connection.getresponse()
        self._url = url
        self._messages = self._events() if stream else self._whole()

    def next(self) -> Delta | None:
        """The next piece; None after `cancel`.

        Raises:
            ChatError: the request failed.
        """
        with self._failures(self._url):
            message = next(self._messages, None)
        if self._cancelled.is_set():
            return None
        if message is None:
            raise ServerError("the server ended the answer without a finish reason")
        if "error" in message:
            status = self._response.status
            raise error_from(LATE_ERROR if status == http.client.OK else status, message["error"])
        return Delta.from_server(message["text"], message["finish_reason"], message["usage"])

    def cancel(self) -> None:
        """Hang up; may be called from another thread. Triton notices with the next piece that it sends."""
        self._cancelled.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def _events(self) -> Iterator[dict]:
        while True:
            self._limit_wait()
            line = self._response.readline()
            if not line:
                return
            if line.startswith(EVENT):
                yield json.loads(line[len(EVENT):])
            elif line.startswith(b"{"):  # an error before there was a stream
                yield json.loads(line)

    def _whole(self) -> Iterator[dict]:
        yield json.loads(self._response.read())

    def _limit_wait(self) -> None:
        if self._deadline is not None:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)

    @contextlib.contextmanager
    def _failures(self, url: str) -> Iterator[None]:
        """Turn failures of the connection into the client's errors; after `cancel` they are expected."""
        try:
            yield
        except TimeoutError:
            self._connection.close()
            raise TimedOut(f"no complete answer from {url} within {self._timeout} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not self._cancelled.is_set():
                self._connection.close()
                raise ServerUnavailable(f"no answer from {url}: {error or type(error).__name__}") from None
