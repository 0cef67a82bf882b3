"""The server that is measured: one that runs, or one that is started for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from bench.serve.errors import BenchError
from bench.serve.server_watch import listening_process
from client.chat import MODEL
from export.build_folder import BuildFolder
from qwen3vl.limits import Limits
from triton_repo.build_paths import BuildPaths
from triton_repo.endpoints import LOOPBACK, Endpoints
from triton_repo.roles import Role
from triton_repo.server import TritonServer

READY_SECONDS = 600
ANSWER_SECONDS = 10
METRICS_PORT = 8002


@dataclass(frozen=True)
class Target:
    """A server that answers.

    Attributes:
        url, metrics_url: host:port of gRPC and of the metrics endpoint.
        pid: its process, where it runs on this machine and that is allowed to be known.
        name, version: as it says.
        limits: of the deployment, where its build folder is known.
        deployment: how it was composed, where its build folder is known.
    """

    url: str
    metrics_url: str
    pid: int | None
    name: str
    version: str
    limits: Limits | None = None
    deployment: dict | None = None


@contextmanager
def started(build: Path, server: str | None = None) -> Iterator[Target]:
    """A server of a build on free ports, stopped at the end."""
    endpoints = Endpoints(http=0, grpc=0, metrics=0)
    with TritonServer(build, server, endpoints) as process:
        print("starting the server ...", file=sys.stderr, flush=True)
        process.wait_ready(READY_SECONDS)
        at = process.endpoints
        yield _target(f"{at.local_host}:{at.grpc}", f"{at.local_host}:{at.metrics}", build)
        process.check()


def running(url: str, metrics_url: str | None = None, build: Path | None = None) -> Target:
    """A server that runs already.

    Args:
        url: host:port of gRPC.
        metrics_url: host:port; by default the same host's standard port.
        build: its build folder, if it is at hand: then the requests are made to fit its limits.

    Raises:
        BenchError: there is none, or it does not serve the model.
    """
    host, colon, port = url.rpartition(":")
    if not (host and colon and port.isdigit()) or "/" in url:
        raise BenchError(f"--url is {url!r}, expected host:port of a server's gRPC endpoint, such as {LOOPBACK}:8001")
    return _target(url, metrics_url or f"{host}:{METRICS_PORT}", build)


def _target(url: str, metrics_url: str, build: Path | None) -> Target:
    host, _, port = url.rpartition(":")
    client = tritonclient.grpc.InferenceServerClient(url)
    try:
        server = client.get_server_metadata(client_timeout=ANSWER_SECONDS)
        if not client.is_model_ready(MODEL, client_timeout=ANSWER_SECONDS):
            raise BenchError(f"the server at {url} does not serve {MODEL}: start it with `qwen3vl serve BUILD`")
    except InferenceServerException as error:
        raise BenchError(f"no Triton server answers over gRPC at {url}: {error.message()}; start one with `qwen3vl "
                         "serve BUILD`, or give --url the address of its gRPC endpoint, which is not HTTP's") from None
    finally:
        client.close()
    pid = listening_process(int(port)) if host in (LOOPBACK, "localhost") else None
    limits = BuildPaths(build).limits() if build else None
    deployment = BuildFolder(build).manifest.get("deployments", {}).get(Role.BOTH.value) if build else None
    return Target(url, metrics_url, pid, server.name, server.version, limits, deployment)
