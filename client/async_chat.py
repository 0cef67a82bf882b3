"""The same as `client.chat` for asyncio, over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import grpc
from tritonclient.grpc import service_pb2_grpc

from client.answer import Answer, Delta, joined
from client.chat import DEFAULT_URLS, MODEL
from client.errors import ChatError
from client.grpc_call import CHANNEL_OPTIONS, failed, infer_request, read_delta, unfinished
from client.request import File, Inputs, request_inputs


class AsyncAnswerStream(AsyncIterator[Delta]):
    """The pieces of one answer, in order, as they are generated.

    As a context manager it cancels what has not been read to the end.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall) -> None:
        self._call = call
        self._responses = aiter(call)
        self._open = True

    async def __anext__(self) -> Delta:
        """Raises: ChatError if the request failed, StopAsyncIteration after the last piece or `cancel`."""
        if not self._open:
            raise StopAsyncIteration
        try:
            delta = read_delta(await anext(self._responses))
        except grpc.RpcError as error:
            self._open = False
            raise failed(error) from None
        except StopAsyncIteration:
            self._open = False
            raise unfinished() from None
        except ChatError:
            await self._finish()
            raise
        except asyncio.CancelledError:
            self.cancel()
            raise
        if delta.finish_reason:
            await self._finish()
        return delta

    async def _finish(self) -> None:
        # tritonserver keeps a request for ever whose call is cut off between its last response and its end.
        self._open = False
        with contextlib.suppress(grpc.RpcError):
            async for _ in self._responses:
                pass

    async def __aenter__(self) -> AsyncAnswerStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Stop the answer: the server's slot gets free. Not needed at the end."""
        if self._open:
            self._open = False
            self._call.cancel()


class AsyncVisionChat:
    """A client of one server; use it as an asynchronous context manager, or `close` it.

    Args:
        url: host:port; by default this machine's standard port.
        timeout: seconds for one whole answer, None for any.
        model: name of the server's model.
    """

    def __init__(self, url: str | None = None, timeout: float | None = None, model: str = MODEL) -> None:
        self.url = url or DEFAULT_URLS["grpc"]
        self.timeout, self.model = timeout, model
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> AsyncVisionChat:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def ask(self, question: str | Sequence[Mapping], images: Iterable[File] = (), videos: Iterable[File] = (),
                  **sampling: object) -> Answer:
        """Ask and wait for the whole answer; arguments and errors as for `VisionChat.ask`."""
        inputs = request_inputs(question, images, videos, sampling, stream=False)
        async with self._start(inputs) as stream:
            return joined([delta async for delta in stream])

    def stream(self, question: str | Sequence[Mapping], images: Iterable[File] = (), videos: Iterable[File] = (),
               **sampling: object) -> AsyncAnswerStream:
        """Ask, and get the answer as it is generated; to be called in a running event loop."""
        return self._start(request_inputs(question, images, videos, sampling, stream=True))

    def _start(self, inputs: Inputs) -> AsyncAnswerStream:
        if self._channel is None:
            # Here and not before: a channel belongs to the event loop that it is made in.
            self._channel = grpc.aio.insecure_channel(self.url, CHANNEL_OPTIONS)
        service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return AsyncAnswerStream(service.ModelStreamInfer(iter([infer_request(self.model, inputs)]),
                                                          timeout=self.timeout))
