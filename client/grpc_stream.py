"""Answers over gRPC, as they come."""

from __future__ import annotations

import contextlib

import grpc
from tritonclient.grpc import service_pb2_grpc

from client.answer import Delta
from client.grpc_call import CHANNEL_OPTIONS, failed, infer_request, read_delta, unfinished
from client.request import Inputs


class GrpcStream:
    """The pieces of one answer.

    Args:
        url: host:port.
        timeout: seconds for the whole answer, None for any.
    """

    def __init__(self, url: str, model: str, inputs: Inputs, timeout: float | None) -> None:
        # Channels to one address share their connection.
        self._channel = grpc.insecure_channel(url, CHANNEL_OPTIONS)
        service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._responses = service.ModelStreamInfer(iter([infer_request(model, inputs)]), timeout=timeout)
        self._cancelled = False

    def next(self) -> Delta | None:
        """The next piece; None after `cancel`.

        Raises:
            ChatError: the request failed.
        """
        try:
            return read_delta(next(self._responses))
        except grpc.RpcError as error:
            if self._cancelled:
                return None
            raise failed(error) from None
        except StopIteration:
            raise unfinished() from None

    def cancel(self) -> None:
        """Tell the server to stop; may be called from another thread."""
        self._cancelled = True
        self._responses.cancel()
        self._channel.close()

    def close(self) -> None:
        """Release what a finished or failed answer held."""
        # tritonserver keeps a request for ever whose call is cut off between its last response and its end.
        with contextlib.suppress(grpc.RpcError):
            for _ in self._responses:
                pass
        self._channel.close()
