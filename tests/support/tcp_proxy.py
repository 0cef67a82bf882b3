"""A TCP proxy on 127.0.0.1 that breaks connections at chosen bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

CHUNK = 4096
# Closing with this sends RST instead of FIN.
_NO_LINGER = struct.pack("ii", 1, 0)


class TcpProxy:
    """Passes connections on to `target`; use it as a context manager.

    Attributes:
        url: where it listens.
        down_bytes: that have come from the target, over all connections.
        connections: accepted so far.
        delay: seconds that each chunk waits.
        frozen: nothing passes, and nobody is told.
        break_at: number of bytes come down at which the connections are broken: see `break_after`.
        reset: whether a break is a reset or an orderly end.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.down_bytes = self.connections = 0
        self.delay, self.frozen, self.reset = 0.0, False, True
        self.break_at: int | None = None
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()

    def break_after(self, size: int) -> None:
        """Break the connections as soon as so many more bytes have come down, once."""
        with self._lock:
            self.break_at = self.down_bytes + size

    def break_all(self) -> None:
        """Break all connections now."""
        with self._lock:
            broken, self._open = self._open, []
        for end in broken:
            with contextlib.suppress(OSError):
                if self.reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    # Wakes the thread that reads from it: it is closed only then.
                    end.shutdown(socket.SHUT_RD)
                    end.close()
                else:
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                if self._listener.fileno() < 0:
                    return
                with contextlib.suppress(OSError, UnboundLocalError):
                    client.close()
                continue
            self.connections += 1
            with self._lock:
                self._open += [client, server]
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, down: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if self.delay:
                    time.sleep(self.delay)
                while self.frozen and source.fileno() >= 0:
                    time.sleep(0.01)
                if down:
                    data = self._count(data)
                sink.sendall(data)
                if down and self.break_at == self.down_bytes:
                    self.break_at = None
                    self.break_all()
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _count(self, data: bytes) -> bytes:
        """Not a byte more passes than up to the break."""
        with self._lock:
            if self.break_at is not None:
                data = data[:max(0, self.break_at - self.down_bytes)]
            self.down_bytes += len(data)
            return data
