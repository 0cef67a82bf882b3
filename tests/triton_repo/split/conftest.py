"""A split deployment beside the whole server: one language server and two encode servers, shared by the live tests."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import LIMITS, READY_SECONDS, SLOTS, LiveServer
from triton_repo.compose import compose
from triton_repo.repository import Options
from triton_repo.roles import Role
from triton_repo.split.server_list import write_servers

# With one process alone that prepares requests, this server is slow to give it the next of those that wait: it may
# sleep half a second first.
OPTIONS = Options(slots=SLOTS, threads=1, preprocess_instances=2, whole_instances=2, row_cache_mib=1,
                  encode_seconds=60)


class EncodeHost:
    """An encode server at an address that stays the same over restarts. To be started by the main thread.

    Attributes:
        server: the one that runs, or ran last.
        address: host:port.
        killed: whether it does not run now.
    """

    def __init__(self, build: Path) -> None:
        self._build, self.killed = build, False
        self.server = LiveServer(build, Role.ENCODE)
        self.address = self.server.grpc_url

    def start(self) -> None:
        """Start it again; it is ready later."""
        self.server, self.killed = LiveServer(self._build, Role.ENCODE, int(self.address.rpartition(":")[2])), False

    def wait_ready(self) -> None:
        self.server.process.wait_ready(READY_SECONDS)

    def kill(self) -> None:
        """As `kill -9` of the server and its model's process."""
        self.server.process.kill()
        self.killed = True

    def images(self) -> int:
        """Images and videos that it has encoded since its start."""
        return int(self.server.metrics()["images_encoded"])


class SplitDeployment:
    """Attributes:
        language: the server that clients ask.
        hosts: its encode servers.
        listed: what it is told of them.
    """

    def __init__(self, build: Path, hosts: list[EncodeHost]) -> None:
        self.hosts = hosts
        self._list = build / "encode_servers.txt"
        self.list_hosts(hosts)
        self.language = LiveServer(build, Role.LANGUAGE)

    def servers(self) -> list[LiveServer]:
        """All that run now."""
        return [self.language, *(host.server for host in self.hosts)]

    def list_hosts(self, hosts: list[EncodeHost]) -> None:
        self.list_addresses([host.address for host in hosts])

    def list_addresses(self, addresses: list[str]) -> None:
        """Change what the language server knows of; it notices in a second or so."""
        write_servers(self._list, addresses)
        self.listed = addresses

    def use(self, addresses: list[str]) -> None:
        """Make the language server forget the encode servers that it has, and give it others, which are ready."""
        self.list_addresses([])
        # Metrics are set one after the other.
        self.language.wait_for(lambda metrics: metrics["encode_servers_listed"] == metrics["encode_servers_ready"] == 0)
        self.list_addresses(addresses)
        self.wait_for_hosts(len(addresses))

    def wait_for_hosts(self, ready: int) -> None:
        """Wait until so many encode servers are used by the language server."""
        self.language.wait_for(lambda metrics: metrics["encode_servers_ready"] == ready)

    def encoded(self) -> int:
        """Images and videos that running encode servers have encoded, once what is reported has settled."""
        counts = None
        while counts != (counts := [host.images() for host in self.hosts]):
            time.sleep(0.4)  # longer than between two reports
        return sum(counts)


@pytest.fixture(scope="session")
def split_build(live_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `live_build` with repositories for encode and language servers."""
    build = Path(shutil.copytree(live_build, tmp_path_factory.mktemp("split") / "build",
                                 ignore=shutil.ignore_patterns("onnx", "triton_repo*")))
    for role in (Role.ENCODE, Role.LANGUAGE):
        compose(build, OPTIONS, {**LIMITS, "queue": 256}, role)
    return build


@pytest.fixture(scope="session")
def running_split(split_build: Path) -> Iterator[SplitDeployment]:
    split = SplitDeployment(split_build, [EncodeHost(split_build) for _ in range(2)])
    try:
        for server in split.servers():
            server.process.wait_ready(READY_SECONDS)
        split.wait_for_hosts(2)
        yield split
        # Nothing is left of all the tests: no transfer, no row, no request.
        for host in split.hosts:
            host.server.wait_for(lambda metrics: not any(metrics[name] for name in (
                "encode_waiting", "handoff_transfers", "handoff_outstanding_rows", "handoff_held_bytes")))
    finally:
        for server in split.servers():
            server.process.kill()


@pytest.fixture
def split(running_split: SplitDeployment) -> Iterator[SplitDeployment]:
    """The deployment, whole; a test may kill encode servers and change the list, and must leave nothing under way."""
    yield running_split
    for host in running_split.hosts:
        if host.killed:
            host.start()
    for host in running_split.hosts:
        host.wait_ready()
    if running_split.listed != (hosts := [host.address for host in running_split.hosts]):
        running_split.use(hosts)
    running_split.wait_for_hosts(2)
    running_split.language.wait_for(lambda metrics: not any(metrics[name] for name in (
        "encode_outstanding_rows", "decoder_active_slots", "decoder_queued_requests")))


def open_files(split: SplitDeployment) -> int:
    """Open file descriptors of the process that fetches rows: each connection, thread pool and file has some."""
    model = f"{split.language.build}/{Role.LANGUAGE.folder}/vision_encoder/1/model.py"
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if model.encode() in (folder / "cmdline").read_bytes():
                return len(os.listdir(folder / "fd"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError(f"{model} does not run")
