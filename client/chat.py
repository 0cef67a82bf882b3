"""Asking a server about text, images and videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from client.answer import Answer, Delta, joined
from client.request import File, request_inputs

MODEL = "qwen3_vl_moe"
DEFAULT_URLS = {"grpc": "127.0.0.1:8001", "http": "127.0.0.1:8000"}


class Transport(Protocol):
    """One request on its way: `GrpcStream` or `HttpStream`."""

    def next(self) -> Delta | None: ...

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class AnswerStream(Iterator[Delta]):
    """The pieces of one answer, in order, as they are generated.

    What has not been read to the end is cancelled on leaving the context manager, or when nobody holds it any more.
    """

    _open = False

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._open = True

    def __del__(self) -> None:
        self.cancel()

    def __next__(self) -> Delta:
        """Raises: ChatError if the request failed, StopIteration after the last piece or `cancel`."""
        if not self._open:
            raise StopIteration
        try:
            delta = self._transport.next()
        except BaseException as error:
            self._open = False
            if isinstance(error, Exception):
                self._transport.close()
            else:  # Ctrl-C
                self._transport.cancel()
            raise
        if delta is None:
            self._open = False
            raise StopIteration
        if delta.finish_reason:
            self._open = False
            self._transport.close()
        return delta

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Stop the answer: the server's slot gets free. May be called from another thread; not needed at the end."""
        if self._open:
            self._open = False
            self._transport.cancel()


class VisionChat:
    """A client of one server. It keeps no connection of its own and may be used from several threads.

    Args:
        url: host:port; by default this machine's standard port for the protocol.
        protocol: "grpc" or "http".
        timeout: seconds for one whole answer, None for any.
        model: name of the server's model.
    """

    def __init__(self, url: str | None = None, protocol: str = "grpc", timeout: float | None = None,
                 model: str = MODEL) -> None:
        if protocol not in DEFAULT_URLS:
            raise ValueError(f"protocol is {protocol!r}, expected 'grpc' or 'http'")
        self.url = (url or DEFAULT_URLS[protocol]).removeprefix("http://").rstrip("/")
        self.protocol, self.timeout, self.model = protocol, timeout, model

    def ask(self, question: str | Sequence[Mapping], images: Iterable[File] = (), videos: Iterable[File] = (),
            **sampling: object) -> Answer:
        """Ask and wait for the whole answer.

        Args:
            question: text, which is asked about all images and videos; or chat messages in OpenAI's format, whose
                parts {"type": "image"} and {"type": "video"} stand for the images and videos in order.
            images, videos: paths, bytes of files, or data: URLs.
            sampling: max_tokens, temperature, top_p, top_k, seed, repetition_penalty, stop.

        Raises:
            ChatError: of the kind that says why.
        """
        return joined(self._start(question, images, videos, sampling, stream=False))

    def stream(self, question: str | Sequence[Mapping], images: Iterable[File] = (), videos: Iterable[File] = (),
               **sampling: object) -> AnswerStream:
        """Ask, and get the answer as it is generated; arguments as for `ask`.

        Raises:
            ChatError: here or while reading, of the kind that says why.
        """
        return self._start(question, images, videos, sampling, stream=True)

    def _start(self, question: str | Sequence[Mapping], images: Iterable[File], videos: Iterable[File],
               sampling: Mapping[str, object], stream: bool) -> AnswerStream:
        inputs = request_inputs(question, images, videos, sampling, stream)
        # Loaded when used: gRPC takes a while.
        if self.protocol == "http":
            from client.http_stream import HttpStream

            return AnswerStream(HttpStream(self.url, self.model, inputs, self.timeout))
        from client.grpc_stream import GrpcStream

        return AnswerStream(GrpcStream(self.url, self.model, inputs, self.timeout))
