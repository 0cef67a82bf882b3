"""Between Triton's Python backend and this project's classes: tensors, errors, settings.

Importable only in a process of the Python backend, which provides `triton_python_backend_utils`.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping

import numpy as np
import triton_python_backend_utils as pb_utils

from engines.dlpack import Borrowed, borrow, lend, withdraw
from engines.visual_rows import DeviceRows, VisualRows
from qwen3vl.errors import InvalidRequest, Overloaded, Qwen3VLError
from triton_repo.build_paths import BuildPaths
from triton_repo.error_messages import BUSY_PREFIX, INTERNAL_PREFIX

log = logging.getLogger(__name__)

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# gRPC's names of status codes -> Triton's, where they differ.
CODES = {"INVALID_ARGUMENT": "INVALID_ARG"}


class ModelSettings:
    """What a model's `initialize` is given.

    Attributes:
        build: the build that the model is part of.
        name: of the model.
        parameters: of its `config.pbtxt`.
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        logging.basicConfig(level=logging.INFO, format=f"%(levelname)s {args['model_name']}: %(message)s")
        self.build = BuildPaths.of_model(args["model_repository"])
        self.name = args["model_name"]
        parameters = json.loads(args["model_config"])["parameters"]
        self.parameters = {name: value["string_value"] for name, value in parameters.items()}

    def number(self, name: str) -> int:
        """A parameter of `config.pbtxt`."""
        return int(self.parameters[name])


def inputs_of(request: pb_utils.InferenceRequest) -> dict[str, np.ndarray]:
    """The tensors that came with a request; those left away are missing."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def inputs_anywhere(request: pb_utils.InferenceRequest) -> dict[str, np.ndarray | Borrowed]:
    """As `inputs_of`, for a model that takes GPU tensors.

    These are readable until the model's `execute` returns: then Triton uses their memory again, whoever still holds
    them.
    """
    return {tensor.name(): tensor.as_numpy() if tensor.is_cpu() else borrow(tensor.to_dlpack())
            for tensor in request.inputs()}


def parameters_of(request: pb_utils.InferenceRequest) -> dict[str, object]:
    """What the client sent beside the inputs, the protocol's own parameters excluded."""
    return json.loads(request.parameters() or "{}")


def response(tensors: Mapping[str, VisualRows]) -> pb_utils.InferenceResponse:
    """A response; `DeviceRows` are copied when it is sent, and held until then."""
    return pb_utils.InferenceResponse([_tensor(name, value) for name, value in tensors.items()])


def _tensor(name: str, value: VisualRows) -> pb_utils.Tensor:
    if not isinstance(value, DeviceRows):
        return pb_utils.Tensor(name, value)
    capsule = lend(value)
    try:
        return pb_utils.Tensor.from_dlpack(name, capsule)
    except BaseException:
        withdraw(capsule)
        raise


def coded_error(code: str, message: str) -> pb_utils.InferenceResponse:
    """An error by the name of its gRPC status code."""
    codes = pb_utils.TritonError
    number = getattr(codes, CODES.get(code, code), codes.INTERNAL)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, number))


def error_response(error: Exception) -> pb_utils.InferenceResponse:
    """The protocol's error for an exception: invalid argument, unavailable, or internal with the details in the log."""
    if isinstance(error, InvalidRequest):
        return coded_error("INVALID_ARGUMENT", str(error))
    if isinstance(error, Overloaded):
        return coded_error("UNAVAILABLE", BUSY_PREFIX + str(error))
    if isinstance(error, Qwen3VLError):
        return coded_error("INTERNAL", INTERNAL_PREFIX + str(error))
    log.error("a request failed", exc_info=error)
    return coded_error("INTERNAL", f"{INTERNAL_PREFIX}{type(error).__name__}: {error}; the server's log says more")


def respond(step: Callable[[Mapping[str, np.ndarray], Mapping[str, object]], Mapping[str, np.ndarray]],
            request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
    """The response to a request that one function answers, from its inputs and parameters."""
    try:
        return response(step(inputs_of(request), parameters_of(request)))
    except Exception as error:
        return error_response(error)


class Metrics:
    """Gauges and counters on Triton's metrics endpoint."""

    def __init__(self, gauges: Mapping[str, str], counters: Mapping[str, str]) -> None:
        """Args: name -> help text of each."""
        kinds = pb_utils.MetricFamily
        # Triton drops a metric with its family, so the families are kept.
        self._families = [pb_utils.MetricFamily(name=name, description=text, kind=kind)
                          for kind, group in ((kinds.GAUGE, gauges), (kinds.COUNTER, counters))
                          for name, text in group.items()]
        self._metrics = dict(zip([*gauges, *counters], (family.Metric(labels={}) for family in self._families),
                                 strict=True))
        self._counters = set(counters)
        self._values = dict.fromkeys(self._metrics, 0)
        # Two threads that change a metric at once crash the server: it is no safe object, and lets Python go on.
        self._lock = threading.Lock()

    def update(self, values: Mapping[str, int]) -> None:
        """Set gauges to these values, and counters where they have grown; may be called from any thread."""
        with self._lock:
            for name, value in values.items():
                change = value - self._values[name]
                if change == 0 or (change < 0 and name in self._counters):
                    continue
                metric = self._metrics[name]
                metric.increment(change) if name in self._counters else metric.set(value)
                self._values[name] = value


class Ticker:
    """Calls a function now and then, for statistics that change by themselves."""

    SECONDS = 0.25

    def __init__(self, call: Callable[[], None]) -> None:
        self._call, self._closed = call, threading.Event()
        self._thread = threading.Thread(target=self._loop, name="ticker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """After this there is no more call."""
        self._closed.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._closed.wait(self.SECONDS):
            try:
                self._call()
            except Exception:
                log.exception("statistics could not be reported")
