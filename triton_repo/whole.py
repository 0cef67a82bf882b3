"""Whole answers for clients without streaming: one request in, one response out.

Triton refuses plain `infer` on anything decoupled, so this model, which is not, asks the ensemble through the server's
own gRPC endpoint and waits. (Triton's in-process way, a decoupled call from a Python model, can deadlock in releases
before mid-2026.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc

from client.grpc_call import CHANNEL_OPTIONS, infer_request
from triton_repo.error_messages import status_code
from triton_repo.parameters import refuse_parameters
from triton_repo.repository import ANSWER, ENSEMBLE

# Set by `qwen3vl serve`; a server started by hand has its gRPC endpoint at the default port or sets this too.
URL_VARIABLE = "QWEN3VL_GRPC_URL"
DEFAULT_URL = "127.0.0.1:8001"
CANCELLATION_SECONDS = 0.25


class ForwardedError(Exception):
    """An error of the ensemble, to be passed on as it is.

    Attributes:
        code: name of the gRPC status code.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class WholeForwarder:
    """Asks the ensemble for whole answers, one at a time."""

    def __init__(self, url: str | None = None) -> None:
        self._channel = grpc.insecure_channel(url or os.environ.get(URL_VARIABLE, DEFAULT_URL), CHANNEL_OPTIONS)
        self._service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._reader = ThreadPoolExecutor(1)

    def __call__(self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, object],
                 cancelled: Callable[[], bool]) -> dict[str, np.ndarray]:
        """Ask and wait.

        Args:
            inputs: those of `repository.REQUEST` that the client sent; `stream` makes no difference.
            parameters: request parameters.
            cancelled: whether the client is gone; asked now and then.

        Returns:
            The tensors of `repository.ANSWER`.

        Raises:
            InvalidRequest: there is an unknown parameter.
            ForwardedError: what the ensemble answered instead, or that the client is gone.
        """
        refuse_parameters(parameters)
        request = infer_request(ENSEMBLE, {**inputs, "stream": np.array([False])})
        call = self._service.ModelStreamInfer(iter([request]))
        reading = self._reader.submit(_only_response, call)
        while True:
            try:
                response = reading.result(timeout=CANCELLATION_SECONDS)
                break
            except TimeoutError:
                if cancelled():
                    call.cancel()
        if response.error_message:
            raise ForwardedError(status_code(response.error_message), response.error_message)
        result = InferResult(response.infer_response)
        return {tensor.name: result.as_numpy(tensor.name) for tensor in ANSWER}

    def close(self) -> None:
        self._channel.close()
        self._reader.shutdown()


def _only_response(call: grpc.Call) -> service_pb2.ModelStreamInferResponse:
    try:
        response, = call
    except grpc.RpcError as error:
        raise ForwardedError(error.code().name, error.details()) from None
    return response
