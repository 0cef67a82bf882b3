"""One gRPC stream from the language side to the model `encode`, from its opening until it breaks.

A stream has block buffers of its own: when it breaks, they go with it, so that a sender that still writes to them does
no harm. It also has a channel of its own, because a broken channel of gRPC is tried again after growing pauses only.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc

from client.grpc_call import CHANNEL_OPTIONS, infer_request
from triton_repo.handoff import messages
from triton_repo.handoff.errors import HandoffError, ProtocolError, Unreachable, error_from
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.messages import Message
from triton_repo.handoff.quarantine import Quarantine
from triton_repo.handoff.settings import ReceiverSettings
from triton_repo.handoff.slots import SlotPool
from triton_repo.handoff.transports import ReceiveBuffers, receive_buffers
from triton_repo.handoff.wire import decode_message, encode_message
from triton_repo.repository import ENCODE

log = logging.getLogger(__name__)

OPTIONS = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]

# How long a stream that is not needed any more may take to tell the sender.
FINISH_SECONDS = 1.0

OnMessage = Callable[["Stream", Message, np.ndarray | None], None]


class Stream:
    """An open stream.

    Attributes:
        session: its id.
        buffers: its block buffers.
        slots: who has which of them.
        quarantine: slots of transfers that have ended.
        instance: of the encode server.

    Args:
        url: host:port.
        transport: by which rows are to come.
        description: the rows that are expected.
        settings: how patient this side is.
        on_message: called from the stream's thread with what concerns transfers.
        on_lost: called once, from a thread of the stream, when it is broken or closed.

    Raises:
        Unreachable: the server or its model is not there.
        HandoffError: it does not fit this side.
    """

    def __init__(self, url: str, transport: str, description: RowsDescription, settings: ReceiverSettings,
                 on_message: OnMessage, on_lost: Callable[[Stream, HandoffError], None]) -> None:
        self.session, self.instance = secrets.token_hex(8), ""
        self._url, self._settings, self._on_message, self._on_lost = url, settings, on_message, on_lost
        self._channel = grpc.insecure_channel(url, OPTIONS)
        service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.buffers = self._buffers(service, transport)
        self.slots = SlotPool(self.buffers.slots)
        self.quarantine = Quarantine(self.slots.give_back)
        self._outgoing: queue.SimpleQueue[service_pb2.ModelInferRequest | None] = queue.SimpleQueue()
        self._opened: queue.SimpleQueue[messages.Opened | HandoffError] = queue.SimpleQueue()
        self._pongs: dict[int, queue.SimpleQueue[messages.Pong | HandoffError]] = {}
        self._lock = threading.Lock()
        self._lost: HandoffError | None = None
        self._ended = threading.Event()
        self._pings = 0
        self._call = service.ModelStreamInfer(self._requests())
        threading.Thread(target=self._read, name="handoff stream", daemon=True).start()
        self._open(transport, description)
        threading.Thread(target=self._beat, name="handoff heartbeat", daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether it is broken or closed."""
        return self._lost is not None

    def send(self, message: Message, payload: np.ndarray | None = None) -> None:
        """Send a message; nothing happens on a stream that is lost."""
        inputs = {"message": np.frombuffer(encode_message(message), np.uint8)}
        if payload is not None:
            inputs["payload"] = payload
        self._outgoing.put(infer_request(ENCODE, inputs))

    def ping(self, seconds: float) -> messages.Pong:
        """Ask for a sign of life.

        Raises:
            Unreachable: there is none in time.
        """
        answer: queue.SimpleQueue[messages.Pong | HandoffError] = queue.SimpleQueue()
        with self._lock:
            if self._lost is not None:
                raise self._lost
            self._pings += 1
            number = self._pings
            self._pongs[number] = answer
        try:
            self.send(messages.Ping(self.session, number))
            pong = answer.get(timeout=seconds)
        except queue.Empty:
            raise Unreachable(f"{self._url} did not answer a heartbeat within {seconds:g} s") from None
        finally:
            self._pongs.pop(number, None)
        if isinstance(pong, HandoffError):
            raise pong
        return pong

    def finish(self, error: HandoffError) -> None:
        """End the stream when the sender has read all that was sent, but do not wait long for it."""
        self._outgoing.put(None)
        self._ended.wait(FINISH_SECONDS)
        self.close(error)

    def close(self, error: HandoffError | None = None) -> None:
        """End the stream at once; nothing happens the second time."""
        with self._lock:
            if self._lost is not None:
                return
            self._lost = error or Unreachable(f"the connection to {self._url} was closed")
            waiting = list(self._pongs.values())
        self._ended.set()
        self._outgoing.put(None)
        self._call.cancel()
        self._opened.put(self._lost)
        for answer in waiting:
            answer.put(self._lost)
        self._on_lost(self, self._lost)
        self.buffers.close()
        self._channel.close()

    def _buffers(self, service: service_pb2_grpc.GRPCInferenceServiceStub, transport: str) -> ReceiveBuffers:
        """Block buffers, once the server is there: a transport looks at the networks that are there."""
        try:
            service.ServerLive(service_pb2.ServerLiveRequest(), timeout=self._settings.connect_seconds)
            return receive_buffers(transport, self._settings.block_bytes, self._settings.buffer_bytes)
        except grpc.RpcError as failure:
            self._channel.close()
            raise Unreachable(f"{self._url}: {failure.details() or failure.code().name}") from None
        except BaseException:
            self._channel.close()
            raise

    def _open(self, transport: str, description: RowsDescription) -> None:
        self.send(messages.Open(self.session, dataclasses.asdict(description), self._settings.heartbeat_seconds,
                                transport, self.buffers.describe()))
        try:
            opened = self._opened.get(timeout=self._settings.connect_seconds)
            if isinstance(opened, HandoffError):
                raise opened
            self.instance = opened.instance
            self.buffers.opened(opened.buffers)
        except queue.Empty:
            error = Unreachable(f"{self._url} did not answer within {self._settings.connect_seconds:g} s")
            self.close(error)
            raise error from None
        except BaseException:
            self.close()
            raise

    def _requests(self) -> Iterator[service_pb2.ModelInferRequest]:
        while (request := self._outgoing.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            for response in self._call:
                self._take(response)
            error: HandoffError = Unreachable(f"{self._url} ended the stream")
        except grpc.RpcError as failure:
            error = Unreachable(f"{self._url}: {failure.details() or failure.code().name}")
        except HandoffError as failure:
            error = failure
        except Exception as failure:
            log.exception("the stream to %s broke", self._url)
            error = ProtocolError(f"{self._url}: {type(failure).__name__}: {failure}")
        self.close(error)

    def _take(self, response: service_pb2.ModelStreamInferResponse) -> None:
        if response.error_message:
            raise Unreachable(f"{self._url}: {response.error_message}")
        result = InferResult(response.infer_response)
        message = decode_message(result.as_numpy("message").tobytes())
        match message:
            case messages.Opened():
                self._opened.put(message)
            case messages.Pong():
                if answer := self._pongs.get(message.number):
                    answer.put(message)
            case messages.Rejected():
                raise error_from(message.code, f"{self._url}: {message.text}")
            case messages.Closed():
                self.quarantine.closed(message.transfer)
            case _:
                self._on_message(self, message, result.as_numpy("payload"))

    def _beat(self) -> None:
        missed, pause = 0, self._settings.heartbeat_seconds
        while not self._ended.wait(pause):
            started = time.monotonic()
            try:
                self.ping(self._settings.heartbeat_seconds)
                missed = 0
            except HandoffError as error:
                missed += 1
                if missed >= self._settings.missed_heartbeats:
                    self.close(error)
                    return
            for closing in self.quarantine.pending():
                self.send(closing)
            pause = max(0.0, started + self._settings.heartbeat_seconds - time.monotonic())
