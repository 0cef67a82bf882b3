"""One real server for all live tests: started with the first, stopped after the last."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc

from client.chat import VisionChat
from engines.builder import build_engines
from export.exporter import export
from tests.support.talking_checkpoint import make_talking_checkpoint
from triton_repo.compose import compose
from triton_repo.endpoints import Endpoints
from triton_repo.repository import Options
from triton_repo.roles import Role
from triton_repo.serve_command import LOG_FILE
from triton_repo.server import TritonServer

READY_SECONDS = 120
SLOTS = 4
# More than can be generated during a test.
ENDLESS = 59_000
# Small, so that each can be exceeded by a small request.
LIMITS = {"image_bytes": 200_000, "image_pixels": 250_000, "images": 4, "prompt_tokens": 1000, "total_tokens": 60_000,
          "queue": 32}
METRIC = re.compile(r"^(qwen3vl_\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class LiveServer:
    """A running server and short ways to ask it.

    Attributes:
        grpc_url, http_url: host:port.
    """

    def __init__(self, build: Path, role: Role = Role.BOTH, grpc_port: int = 0) -> None:
        self.build = build
        endpoints = Endpoints(http=0, grpc=grpc_port, metrics=0).chosen()
        log = build / (LOG_FILE if role is Role.BOTH else f"{role}-{endpoints.grpc}.log")
        self.process = TritonServer(build, endpoints=endpoints, log=log, role=role)
        at = self.process.endpoints
        self.grpc_url, self.http_url = f"{at.host}:{at.grpc}", f"{at.host}:{at.http}"
        self.metrics_url = f"{at.host}:{at.metrics}"

    @contextmanager
    def running(self) -> Iterator[LiveServer]:
        """Once it is ready; killed in the end. How servers stop, which takes seconds, has tests of its own."""
        try:
            self.process.wait_ready(READY_SECONDS)
            yield self
        finally:
            self.process.kill()

    def chat(self, protocol: str = "grpc", **settings: object) -> VisionChat:
        return VisionChat(self.grpc_url if protocol == "grpc" else self.http_url, protocol, **settings)

    def metrics(self) -> dict[str, float]:
        """This project's metrics, without their common beginning."""
        with urllib.request.urlopen(f"http://{self.metrics_url}/metrics", timeout=30) as response:
            found = METRIC.findall(response.read().decode())
        return {name.removeprefix("qwen3vl_"): float(value) for name, value in found}

    def wait_for(self, condition: Callable[[dict[str, float]], bool], seconds: float = 60) -> dict[str, float]:
        """Wait until the metrics fulfil a condition, and return them; fail if they do not in time."""
        deadline = time.monotonic() + seconds
        while not condition(metrics := self.metrics()):
            assert time.monotonic() < deadline, f"still {metrics}"
            time.sleep(0.05)
        return metrics


@pytest.fixture(scope="session")
def live_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of `make_talking_checkpoint`, made as the command line makes one."""
    folder = tmp_path_factory.mktemp("live")
    export(make_talking_checkpoint(folder / "checkpoint"), folder / "build")
    build_engines(folder / "build")
    compose(folder / "build", Options(slots=SLOTS, threads=1, whole_instances=2), LIMITS)
    return folder / "build"


@pytest.fixture(scope="session")
def live_server(live_build: Path) -> Iterator[LiveServer]:
    with LiveServer(live_build).running() as server:
        yield server
        server.process.check()  # says what its log says, where the tests could only say that it was gone


def infer_input(name: str, values: list, dtype: str,
                shape: tuple[int, ...] | None = None) -> tritonclient.grpc.InferInput:
    """An input for Triton's own client, of any name, type and shape, right or wrong."""
    numpy_type = {"BYTES": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}
    array = np.array(values, numpy_type[dtype]).reshape(shape or -1)
    return tritonclient.grpc.InferInput(name, list(array.shape), dtype).set_data_from_numpy(array)
