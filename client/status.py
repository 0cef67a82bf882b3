"""A server's state, read over HTTP."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass

from client.errors import ServerError, ServerUnavailable

METRIC_LINE = re.compile(r"^qwen3vl_(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class ModelStatus:
    """Attributes: `mean_ms` is the mean time of a successful request, from its arrival to its last response."""

    name: str
    version: str
    state: str
    succeeded: int
    failed: int
    mean_ms: float


@dataclass(frozen=True)
class ServerStatus:
    """Attributes: `metrics` are those of this project: slots, queue, tokens, requests, images."""

    name: str
    version: str
    ready: bool
    models: tuple[ModelStatus, ...]
    metrics: dict[str, float]

    @property
    def role(self) -> str:
        """What it does: "encode" for vision encoding alone, "language" for all but that, else "whole"."""
        if any(model.name == "encode" for model in self.models):
            return "encode"
        return "language" if "encode_servers_listed" in self.metrics else "whole"


def read_status(url: str, metrics_url: str, timeout: float) -> ServerStatus:
    """Ask a server how it is.

    Args:
        url, metrics_url: host:port of its HTTP and its metrics endpoint.
        timeout: seconds for each of a few short requests.

    Raises:
        ServerUnavailable: there is no server.
        ServerError: what is there answers like no Triton server.
    """
    root = f"http://{url.removeprefix('http://').rstrip('/')}/v2"
    server = _json(root, timeout)
    try:
        _get(f"{root}/health/ready", timeout)
        ready = True
    except ServerError:
        ready = False
    index = _json(f"{root}/repository/index", timeout, data=b"{}")
    statistics = {item["name"]: item["inference_stats"] for item in
                  (_json(f"{root}/models/stats", timeout)["model_stats"] if ready else [])}
    metrics = _get(f"http://{metrics_url.removeprefix('http://').rstrip('/')}/metrics", timeout).decode()
    return ServerStatus(server["name"], server["version"], ready,
                        tuple(_model(entry, statistics.get(entry["name"])) for entry in index),
                        {name: float(value) for name, value in METRIC_LINE.findall(metrics)})


def _model(entry: dict, statistics: dict | None) -> ModelStatus:
    success = statistics["success"] if statistics else {"count": 0, "ns": 0}
    failed = statistics["fail"]["count"] if statistics else 0
    mean_ms = success["ns"] / success["count"] / 1e6 if success["count"] else 0.0
    return ModelStatus(entry["name"], entry.get("version", "-"), entry.get("state", "-"), success["count"], failed,
                       mean_ms)


def _json(url: str, timeout: float, data: bytes | None = None):
    try:
        return json.loads(_get(url, timeout, data))
    except ValueError:
        raise ServerError(f"{url} answers without JSON: is it a Triton server?") from None


def _get(url: str, timeout: float, data: bytes | None = None) -> bytes:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=timeout) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        raise ServerError(f"{url} answers with status {error.code}") from None
    except (OSError, ValueError) as error:
        raise ServerUnavailable(f"no answer from {url}: {getattr(error, 'reason', error)}") from None
