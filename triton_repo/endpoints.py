"""Where a server listens."""

from __future__ import annotations

import socket
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Endpoints:
    """Where a server listens; port 0 stands for any free one."""

    host: str = LOOPBACK
    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    def chosen(self) -> Endpoints:
        """With a free port in place of each 0."""
        with_sockets = [(port, socket.socket()) for port in (self.http, self.grpc, self.metrics)]
        ports = []
        for port, free in with_sockets:
            if port == 0:
                free.bind((self.host, 0))
                port = free.getsockname()[1]
            ports.append(port)
        for _, free in with_sockets:
            free.close()
        return Endpoints(self.host, *ports)

    @property
    def local_host(self) -> str:
        """By which this machine reaches it."""
        return LOOPBACK if self.host == "0.0.0.0" else self.host
