"""One encode server, as a language server sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from qwen3vl.errors import ArtifactError
from triton_repo.handoff.errors import Cancelled, HandoffError
from triton_repo.handoff.job import EncodeJob, RowsDescription
from triton_repo.repository import ENCODE
from triton_repo.split.pairing import Pairing

# How long a server may take to say what it is.
OFFER_SECONDS = 5.0
# gRPC by itself tries less and less often to reach a server that was away.
CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.min_reconnect_backoff_ms", 200),
                   ("grpc.max_reconnect_backoff_ms", 1000), ("grpc.use_local_subchannel_pool", 1)]


class Health(Protocol):
    """Attributes: `rows_for_others`: visual rows that the server has yet to encode for other language servers."""

    rows_for_others: int


class Connection(Protocol):
    """The language side of a hand-off: see `handoff.receiver.EncodeConnection`."""

    def fetch(self, job: EncodeJob, deadline: float, cancelled: Callable[[], bool]) -> np.ndarray: ...

    def health(self) -> Health: ...

    def close(self) -> None: ...


Connect = Callable[[str, RowsDescription], Connection]


@dataclass(frozen=True)
class ServerState:
    """What is known of an encode server.

    Attributes:
        engine: hash of its vision engine; None unless it is ready.
        problem: why it cannot be used; empty if it can.
        rows_for_others: visual rows that it had to encode for other language servers when it was last asked.
    """

    engine: str | None
    problem: str
    rows_for_others: int = 0


class EncodeServer:
    """Asks a server what it is, and fetches rows from it.

    Attributes:
        url: host:port of its gRPC endpoint.

    Args:
        pairing: what it must fit.
        connect: opens a connection for rows.
    """

    def __init__(self, url: str, pairing: Pairing, connect: Connect) -> None:
        self.url = url
        self._pairing, self._connect = pairing, connect
        self._channel = grpc.insecure_channel(url, CHANNEL_OPTIONS)
        self._service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._connections: dict[str, Connection] = {}
        self._closed = False
        self._lock = threading.Lock()

    def check(self) -> ServerState:
        """Ask the server what it is and how it does; takes some seconds at most."""
        try:
            engine = self._offered_engine()
            return ServerState(engine, "", self._connection(engine).health().rows_for_others)
        except (ArtifactError, HandoffError) as error:
            return ServerState(None, str(error))
        except ValueError as error:  # the channel is closed
            return ServerState(None, str(error))
        except grpc.RpcError as error:
            return ServerState(None, f"{error.code().name.lower().replace('_', ' ')}: {error.details()}")

    def fetch(self, engine: str, job: EncodeJob, deadline: float, cancelled: Callable[[], bool]) -> np.ndarray:
        """Rows of a job from this engine, [rows, hidden]; raises `HandoffError`."""
        return self._connection(engine).fetch(job, deadline, cancelled)

    def close(self) -> None:
        """What is being fetched ends with an error."""
        with self._lock:
            connections, self._connections = self._connections, {}
            self._closed = True
        for connection in connections.values():
            connection.close()
        self._channel.close()

    def _offered_engine(self) -> str:
        request = service_pb2.ModelConfigRequest(name=ENCODE)
        config = self._service.ModelConfig(request, timeout=OFFER_SECONDS).config
        parameters = {name: value.string_value for name, value in config.parameters.items()}
        if difference := self._pairing.difference(Pairing.from_parameters(parameters)):
            raise ArtifactError(f"it is composed for other rows: {difference}")
        return parameters["engine"]

    def _connection(self, engine: str) -> Connection:
        """One for each engine that the server has had: rows of another one are no longer to be had, but fetching
        them must end by itself."""
        with self._lock:
            if self._closed:
                raise Cancelled(f"the encode server {self.url} is not used any more")
            if engine not in self._connections:
                self._connections[engine] = self._connect(self.url, self._pairing.description(engine))
            return self._connections[engine]
