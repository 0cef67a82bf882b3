"""The same as `client.chat` for asyncio, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import grpc
import tritonclient.grpc.aio as grpc_client

from client.answer import Answer, Delta, joined
from client.chat import DEFAULT_URLS, MODEL
from client.errors import ServerError, error_from
from client.grpc_stream import delta, infer_inputs, typed
from client.request import File, Inputs, request_inputs


class AsyncAnswerStream(AsyncIterator[Delta]):
    """The pieces of one answer, in order, as they are generated.

    As a context manager it cancels what has not been read to the end.
    """

    def __init__(self, responses: AsyncIterator) -> None:
        self._responses = responses
        self._open = True

    async def __anext__(self) -> Delta:
        """Raises: ChatError if the request failed, StopAsyncIteration after the last piece or `cancel`."""
        if not self._open:
            raise StopAsyncIteration
        try:
            result, error = await anext(self._responses)
        except grpc.RpcError as failure:
            self._open = False
            raise error_from(failure.code().name, failure.details()) from None
        except StopAsyncIteration:
            self._open = False
            raise ServerError("the server ended the answer without a finish reason") from None
        except BaseException:  # the task was cancelled
            self.cancel()
            raise
        if error is not None:
            self.cancel()
            raise typed(error)
        piece = delta(result)
        self._open = not piece.finish_reason
        return piece

    async def __aenter__(self) -> AsyncAnswerStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Stop the answer: the server's slot gets free. Not needed at the end."""
        if self._open:
            self._open = False
            self._responses.cancel()


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
        self._client: grpc_client.InferenceServerClient | None = None

    async def __aenter__(self) -> AsyncVisionChat:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

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
        if self._client is None:
            # Here and not before: a channel belongs to the event loop that it is made in.
            self._client = grpc_client.InferenceServerClient(self.url)

        async def requests():
            yield {"model_name": self.model, "inputs": infer_inputs(inputs)}

        return AsyncAnswerStream(self._client.stream_infer(requests(), stream_timeout=self.timeout))
