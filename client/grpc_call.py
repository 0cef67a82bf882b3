"""One request to the server over gRPC, with the messages and the service that tritonclient ships.

A stream of its own for each request, closed on the client's side as soon as the request is out, so that each can be
cancelled alone and ends by itself. (tritonclient's stream API has one stream for a client, and a thread that outlives a
cancellation.)
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
import numpy as np
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from client.answer import Delta
from client.errors import ChatError, ServerError, error_from

OUTPUTS = ("text", "finish_reason", "usage")
# Pictures and videos make messages larger than gRPC's default allows.
CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def infer_request(model: str, inputs: Mapping[str, np.ndarray]) -> service_pb2.ModelInferRequest:
    """The request message: arrays of objects are strings of bytes."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        request.raw_input_contents.append(_contents(array))
    return request


def read_delta(response: service_pb2.ModelStreamInferResponse) -> Delta:
    """Read one response.

    Raises:
        ChatError: the server reports that the request failed.
    """
    if response.error_message:
        raise error_from(None, response.error_message)
    result = InferResult(response.infer_response)
    return Delta.from_server(*(result.as_numpy(name).item() for name in OUTPUTS))


def failed(error: grpc.RpcError) -> ChatError:
    """The error for a call that ended with a status."""
    return error_from(error.code().name, error.details())


def _contents(array: np.ndarray) -> bytes:
    if array.dtype != np.object_:
        return array.tobytes()
    return serialize_byte_tensor(array).item() if array.size else b""


def unfinished() -> ServerError:
    return ServerError("the server ended the answer without a finish reason")
