"""The hand-off between two network namespaces, as between hosts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bench.one_model_server import OneModelServer
from tests.support import fetch_jobs
from tests.support.encode_servers import encode_server
from tests.support.two_hosts import ENCODE, TwoHosts, why_not
from tests.triton_repo.handoff.conftest import NIXL, SECONDS

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
REMOTE = ("grpc", "auto", pytest.param("nixl", marks=NIXL))


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with TwoHosts() as running, pytest.MonkeyPatch.context() as patch:
        # UCX sees that it is one machine, and would go another way.
        patch.setenv("UCX_TLS", "tcp")
        yield running


@pytest.fixture(scope="module")
def remote(hosts: TwoHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneModelServer]:
    with encode_server(tmp_path_factory.mktemp("remote"), host=ENCODE, network=hosts.encode) as running:
        yield running


def fetching(hosts: TwoHosts, server: OneModelServer, transport: str, seeds: range) -> subprocess.Popen:
    command = [sys.executable, "-m", fetch_jobs.__name__, server.url, transport, *map(str, seeds)]
    return subprocess.Popen(["ip", "netns", "exec", hosts.language, *command], stdout=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen) -> dict:
    output, _ = process.communicate(timeout=SECONDS)
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("transport", REMOTE)
def test_rows_cross(hosts, remote, transport: str) -> None:
    assert outcome(fetching(hosts, remote, transport, range(3)))["errors"] == [None] * 3


def test_shared_memory_says_that_it_cannot(hosts, remote) -> None:
    error, = outcome(fetching(hosts, remote, "shared_memory", range(1)))["errors"]
    assert error.startswith("TransportFailed") and "one machine and in one network namespace" in error


@pytest.mark.parametrize("transport", REMOTE)
def test_cable_pulled_in_the_middle(hosts, remote, transport: str) -> None:
    """Over a slow network, so that there is a middle; long enough for heartbeats to tell."""
    hosts.limit(megabits=20)
    try:
        process = fetching(hosts, remote, transport, range(8))
        time.sleep(2.5)
        hosts.plug(False)
        time.sleep(1.5)
        running = process.poll() is None
        hosts.plug(True)
        result = outcome(process)
    finally:
        hosts.limit(megabits=10_000)
    assert result["errors"] == [None] * 8
    assert running, "it was too quick to be interrupted"
    assert result["streams"] > 1
