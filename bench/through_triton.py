"""Serving through a real Triton server and the client, over gRPC."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from client.chat import VisionChat
from triton_repo.endpoints import Endpoints
from triton_repo.server import TritonServer


class ThroughTriton:
    """A server of a build on free ports; use it as a context manager."""

    def __init__(self, build: Path):
        self._server = TritonServer(build, endpoints=Endpoints(http=0, grpc=0, metrics=0))

    def __enter__(self) -> ThroughTriton:
        print("starting the server ...", file=sys.stderr)
        self._server.wait_ready(600)
        at = self._server.endpoints
        self._chat = VisionChat(f"{at.local_host}:{at.grpc}")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def stream(self, messages: list, images: list[bytes], max_tokens: int) -> Iterator[int]:
        """Serve one request, from encoded images to the last piece of text."""
        for delta in self._chat.stream(messages, images, max_tokens=max_tokens):
            yield delta.usage.completion_tokens
