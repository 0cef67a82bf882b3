"""Encode and language server as the command line starts them, in two network namespaces, as on two hosts."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.pictures import png
from tests.support.server import LiveServer
from tests.support.two_hosts import ENCODE, LANGUAGE, TwoHosts, why_not
from triton_repo.compose import compose
from triton_repo.repository import Options
from triton_repo.roles import Role

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
SECONDS = 60
QUESTION = "What is in the picture?"


def command(host: str, *arguments: str) -> list[str]:
    return ["ip", "netns", "exec", host, sys.executable, "-m", "client.cli", *arguments]


@contextmanager
def serving(host: str, address: str, build: Path, role: Role, *arguments: str) -> Iterator[dict[str, str]]:
    """`qwen3vl serve`, ready; yields what it says of its endpoints, and stops it."""
    ports = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    serve = command(host, "serve", str(build), "--role", role, "--host", address, *ports, *arguments)
    process = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        endpoints = {}
        for line in process.stdout:
            if line.startswith("press"):
                break
            name, _, value = line.strip().partition(" ")
            endpoints[name] = value.strip()
        yield endpoints
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with TwoHosts() as running:
        yield running


def test_two_hosts(live_server: LiveServer, split_build: Path, tmp_path: Path, hosts: TwoHosts) -> None:
    ignored = shutil.ignore_patterns("triton_repo*", "*.log", "encode_servers.txt")
    builds = {role: Path(shutil.copytree(split_build, tmp_path / role, ignore=ignored))
              for role in (Role.ENCODE, Role.LANGUAGE)}
    for role, build in builds.items():
        compose(build, Options(threads=1, whole_instances=1, row_cache_mib=0, encode_seconds=4), role=role)
    (tmp_path / "a.png").write_bytes(png(700))
    with ExitStack() as stack:
        encode = stack.enter_context(serving(hosts.encode, ENCODE, builds[Role.ENCODE], Role.ENCODE))
        language = stack.enter_context(serving(hosts.language, LANGUAGE, builds[Role.LANGUAGE], Role.LANGUAGE,
                                               "--encode-server", encode["gRPC"]))

        def ask(*arguments: str) -> subprocess.CompletedProcess:
            asking = command(hosts.language, "ask", QUESTION, "--url", language["gRPC"], "--max-tokens", "12")
            return subprocess.run([*asking, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)

        picture = ("--image", str(tmp_path / "a.png"))
        expected = live_server.chat().ask(QUESTION, [png(700)], max_tokens=12).text + "\n"
        result = ask(*picture)
        assert (result.stdout, result.returncode) == (expected, 0), result.stderr
        hosts.plug(False)
        try:
            assert ask().returncode == 0
            result = ask(*picture)
        finally:
            hosts.plug(True)
        assert result.returncode == 4
        assert f"server busy: no encode server could take the image in time: {encode['gRPC']}: " in result.stderr
        deadline = time.monotonic() + SECONDS
        while (result := ask(*picture)).returncode != 0:
            assert time.monotonic() < deadline, result.stderr
        assert result.stdout == expected
        status = subprocess.run(command(hosts.language, "status", "--url", language["HTTP"].removeprefix("http://"),
                                        "--metrics-url", language["metrics"].removeprefix("http://").split("/")[0]),
                                capture_output=True, text=True, timeout=SECONDS, check=False)
        assert status.returncode == 0
        assert "language server" in status.stdout
