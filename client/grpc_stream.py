"""Answers over gRPC: one stream of its own for each request, so that each can be cancelled."""

from __future__ import annotations

import contextlib
import queue
import threading

import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from client.answer import Delta
from client.errors import ChatError, ServerError, error_from
from client.request import Inputs

OUTPUTS = ("text", "finish_reason", "usage")


class GrpcStream:
    """The pieces of one answer, as they come.

    Args:
        url: host:port.
        timeout: seconds for the whole answer, None for any.
    """

    def __init__(self, url: str, model: str, inputs: Inputs, timeout: float | None) -> None:
        self._results: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        # Triton's client has one stream each; their connections are shared.
        self._client = grpc_client.InferenceServerClient(url)
        self._client.start_stream(lambda result, error: self._results.put((result, error)), stream_timeout=timeout)
        # If there is no server, the stream may have failed before this; why comes out of the queue.
        with contextlib.suppress(InferenceServerException):
            self._client.async_stream_infer(model, infer_inputs(inputs), enable_empty_final_response=True)

    def next(self) -> Delta | None:
        """The next piece; None after `cancel`.

        Raises:
            ChatError: the request failed.
        """
        result, error = self._results.get()
        if self._cancelled.is_set():
            return None
        if error is not None:
            raise typed(error)
        return delta(result)

    def cancel(self) -> None:
        """Tell the server to stop; may be called from another thread."""
        self._cancelled.set()
        self._results.put((None, None))
        self._client.stop_stream(cancel_requests=True)

    def close(self) -> None:
        """Release the stream of a finished answer."""
        self._client.stop_stream()
        self._client.close()


def infer_inputs(inputs: Inputs) -> list[grpc_client.InferInput]:
    tensors = []
    for name, array in inputs.items():
        tensor = grpc_client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensors.append(tensor.set_data_from_numpy(array))
    return tensors


def delta(result: grpc_client.InferResult) -> Delta:
    """Read one response.

    Raises:
        ServerError: it is an empty one: the answer ended without a last piece.
    """
    outputs = [result.as_numpy(name) for name in OUTPUTS]
    if any(output is None for output in outputs):
        raise ServerError("the server ended the answer without a finish reason")
    return Delta.from_server(*(output.item() for output in outputs))


def typed(error: InferenceServerException) -> ChatError:
    status = error.status()
    return error_from(status.removeprefix("StatusCode.") if status else None, error.message())
