"""Fixtures of the hand-off's tests."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.one_model_server import OneModelServer
from tests.support import fetch_jobs
from tests.support.encode_jobs import DESCRIPTION
from tests.support.encode_servers import encode_server
from triton_repo.handoff.receiver import EncodeConnection
from triton_repo.handoff.settings import ReceiverSettings
from triton_repo.handoff.transports.nixl import PACKAGES

# Small, so that the rows of a small image take many blocks and more than all the slots.
SETTINGS = ReceiverSettings(block_bytes=4096, buffer_bytes=4 * 4096, connect_seconds=20)
SECONDS = 60
NIXL = pytest.mark.skipif(not any(importlib.util.find_spec(package) for package in PACKAGES),
                          reason="NIXL is not installed: `pip install --no-deps nixl-cu12`")
TRANSPORTS = ("grpc", "shared_memory", pytest.param("nixl", marks=NIXL))

Connect = Callable[..., EncodeConnection]


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneModelServer]:
    """An encode server without faults. Tests must leave it running."""
    with encode_server(tmp_path_factory.mktemp("encode"), settings={"retention_seconds": 5}) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., OneModelServer]]:
    """Starts servers of `encode_server`; they end with the test."""
    with ExitStack() as stack:
        count = iter(range(100))
        yield lambda *args, **kwargs: stack.enter_context(
            encode_server(tmp_path / str(next(count)), *args, **kwargs))


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens connections; they are closed after the test, which fails if slots were not given back."""
    opened = []

    def open_(url: str, transport: str = "grpc", settings: ReceiverSettings = SETTINGS,
              description=DESCRIPTION) -> EncodeConnection:
        opened.append(EncodeConnection(url, transport, description, settings))
        return opened[-1]

    yield open_
    for connection in opened:
        stream = connection._stream
        if stream is not None and not stream.lost:
            wait_until(lambda stream=stream: stream.lost or stream.slots.free == stream.buffers.slots)
        connection.close()


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Fail if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def soon() -> float:
    """A deadline that a working hand-off keeps on the slowest machine."""
    return time.monotonic() + SECONDS


def killed_receiver_leaves_nothing(server: OneModelServer, watching: EncodeConnection, transport: str, memory: str, *,
                                   mapped: bool) -> None:
    """Kill a language server that fetches; fail unless its transfers and its memory go from the encode server.

    Args:
        watching: a connection of this process.
        memory: in the names of what an encode server maps of a language server.
        mapped: whether it does by this transport.
    """
    command = [sys.executable, "-m", fetch_jobs.__name__, "--seconds", "60", server.url, transport, "1", "2"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: watching.health().transfers == 2)
    maps = Path(f"/proc/{server.model_process()}/maps")
    assert (memory in maps.read_text()) is mapped
    killed.kill()
    killed.wait()
    wait_until(lambda: watching.health().transfers == 0)
    wait_until(lambda: memory not in maps.read_text())
