"""Whole answers for clients without streaming: one request in, one response out.

Triton refuses plain `infer` on anything decoupled, so this model, which is not, asks the ensemble through the server's
own gRPC endpoint and waits. (Triton's in-process way, a decoupled call from a Python model, can deadlock in releases
before mid-2026.)
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Mapping

import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from triton_repo.error_messages import status_code
from triton_repo.parameters import refuse_parameters
from triton_repo.repository import ANSWER, ENSEMBLE, REQUEST

# Set by `qwen3vl serve`; a server started by hand has its gRPC endpoint at the default port or sets this too.
URL_VARIABLE = "QWEN3VL_GRPC_URL"
DEFAULT_URL = "127.0.0.1:8001"
CANCELLATION_SECONDS = 0.25

DTYPES = {tensor.name: {"STRING": "BYTES"}.get(tensor.dtype, tensor.dtype) for tensor in REQUEST}


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
        self.url = url or os.environ.get(URL_VARIABLE, DEFAULT_URL)
        self._client = tritonclient.grpc.InferenceServerClient(self.url)

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
        results: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._client.start_stream(lambda result, error: results.put((result, error)))
        try:
            self._client.async_stream_infer(ENSEMBLE, _infer_inputs({**inputs, "stream": np.array([False])}))
            result, error = _wait(results, cancelled)
        except BaseException:
            self._client.stop_stream(cancel_requests=True)
            raise
        self._client.stop_stream()
        if error is not None:
            raise _forwarded(error)
        return {tensor.name: result.as_numpy(tensor.name) for tensor in ANSWER}

    def close(self) -> None:
        self._client.close()


def _infer_inputs(arrays: Mapping[str, np.ndarray]) -> list[tritonclient.grpc.InferInput]:
    inputs = []
    for name, array in arrays.items():
        tensor = tritonclient.grpc.InferInput(name, list(array.shape), DTYPES[name])
        inputs.append(tensor.set_data_from_numpy(array))
    return inputs


def _wait(results: queue.SimpleQueue[tuple], cancelled: Callable[[], bool]) -> tuple:
    while True:
        try:
            return results.get(timeout=CANCELLATION_SECONDS)
        except queue.Empty:
            if cancelled():
                raise ForwardedError("CANCELLED", "the client cancelled the request") from None


def _forwarded(error: InferenceServerException) -> ForwardedError:
    """Errors of the ensemble come without a status, those of the connection with one."""
    status = error.status()
    return ForwardedError(status.removeprefix("StatusCode.") if status else status_code(error.message()),
                          error.message())
