"""The life of a server: started, watched, stopped, killed, and what is left of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tritonclient.grpc

from client.cli import main
from qwen3vl.errors import ArtifactError
from tests.support.server import infer_input
from tests.support.talking_checkpoint import EMOJI, SENTENCES
from triton_repo.compose import compose
from triton_repo.endpoints import LOOPBACK, Endpoints
from triton_repo.repository import WHOLE, Options
from triton_repo.server import ServerFailed, TritonServer
from triton_repo.server_binary import KEEP_MEMORY

SECONDS = 60
FREE_PORTS = Endpoints(http=0, grpc=0, metrics=0)
# As in /proc/net/tcp and /proc/net/tcp6.
LISTENING = "0A"
LOOPBACK_ADDRESSES = ("0100007F", "0000000000000000FFFF00000100007F")


@pytest.fixture(scope="module")
def small_build(live_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with as few processes as possible: each takes a second to stop."""
    build = Path(shutil.copytree(live_build, tmp_path_factory.mktemp("small") / "build"))
    compose(build, Options(slots=1, threads=1, preprocess_instances=1, whole_instances=1))
    return build


@pytest.fixture
def broken_build(small_build: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return Path(shutil.copytree(small_build, tmp_path / "build"))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def processes(build: Path) -> dict[int, str]:
    """Running processes whose command line names this build's repository: the server and its models'."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z" and f"{build}/triton_repo" in command:
            found[int(folder.name)] = command
    return found


def leftovers() -> set[str]:
    """Folders and shared memory of servers whose process is this one or has ended; others may be serving beside us."""
    names = {file.name for folder in (Path("/dev/shm"), Path("/tmp")) for file in folder.glob("qwen3vl-serve-*")}
    owners = {name: name.split("-")[2] for name in names}
    return {name for name, owner in owners.items() if owner == str(os.getpid()) or not Path(f"/proc/{owner}").exists()}


@pytest.fixture
def no_leftovers() -> Iterator[None]:
    before = leftovers()
    yield
    assert leftovers() <= before


class ServeCommand:
    """`qwen3vl serve` as a process of its own, ready."""

    def __init__(self, build: Path) -> None:
        command = [sys.executable, "-m", "client.cli", "serve", str(build), "--http-port", "0", "--grpc-port", "0",
                   "--metrics-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.endpoints = {}
        for line in self.process.stdout:
            if line.startswith("press"):
                break
            name, _, value = line.strip().partition(" ")
            self.endpoints[name] = value.strip()

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal, and return exit code and error output."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS), self.process.stderr.read()


def test_command_serves_until_a_signal_and_leaves_nothing(small_build: Path, no_leftovers) -> None:
    serve = ServeCommand(small_build)
    ask = [sys.executable, "-m", "client.cli", "ask", "hello", "--url", serve.endpoints["gRPC"], "--max-tokens", "2"]
    assert subprocess.run(ask, stdout=subprocess.DEVNULL, check=False, timeout=SECONDS).returncode == 0
    assert len(processes(small_build)) >= 6  # the command, the server and five models
    code, output = serve.end(signal.SIGTERM)
    assert code == 0, output
    assert "loaded decoder" in output
    assert processes(small_build) == {}


def test_killed_command_takes_the_server_with_it(small_build: Path) -> None:
    serve = ServeCommand(small_build)
    assert serve.end(signal.SIGKILL)[0] == -signal.SIGKILL
    wait_until(lambda: processes(small_build) == {})
    left = {name for name in leftovers() if name.startswith(f"qwen3vl-serve-{serve.process.pid}-")}
    assert left, "a killed process cannot clean up"
    with TritonServer(small_build, endpoints=FREE_PORTS):
        assert not left & leftovers()


def test_command_ends_when_a_model_process_dies(small_build: Path, no_leftovers) -> None:
    serve = ServeCommand(small_build)
    decoder, = (pid for pid, command in processes(small_build).items() if "/decoder/1/model.py" in command)
    os.kill(decoder, signal.SIGKILL)
    assert serve.process.wait(SECONDS) == 1
    assert "a model's process ended unexpectedly" in serve.process.stderr.read()
    assert processes(small_build) == {}


@pytest.fixture(scope="module")
def moved_server(small_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of a build that has been moved since it was composed."""
    moved = Path(shutil.copytree(small_build, tmp_path_factory.mktemp("moved") / "elsewhere"))
    with TritonServer(moved, endpoints=FREE_PORTS) as server:
        server.wait_ready(SECONDS)
        yield server


def test_moved_build_is_served(moved_server: TritonServer) -> None:
    client = tritonclient.grpc.InferenceServerClient(f"{LOOPBACK}:{moved_server.endpoints.grpc}")
    result = client.infer(WHOLE, [infer_input("prompt", [EMOJI.encode()], "BYTES")])
    assert result.as_numpy("text").item().decode() == SENTENCES[EMOJI]


def test_server_listens_on_this_machine_only(moved_server: TritonServer) -> None:
    at = moved_server.endpoints
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            (address, port), state = line.split()[1].split(":"), line.split()[3]
            if state == LISTENING and int(port, 16) in (at.http, at.grpc, at.metrics):
                listening.add((address, int(port, 16)))
    assert {port for _, port in listening} == {at.http, at.grpc, at.metrics}
    assert {address for address, _ in listening} <= set(LOOPBACK_ADDRESSES)


def test_all_processes_keep_memory_that_the_next_image_needs_again(moved_server: TritonServer) -> None:
    found = processes(Path("elsewhere"))  # every process names the repository
    assert len(found) > 3
    for pid in found:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert {f"{name}={value}".encode() for name, value in KEEP_MEMORY.items()} <= set(environment), pid


def test_models_cannot_be_loaded_or_unloaded_by_clients(moved_server: TritonServer) -> None:
    url = f"http://{LOOPBACK}:{moved_server.endpoints.http}/v2/repository/models/decoder/unload"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(url, b"{}", SECONDS)


def test_taken_port_is_shown(moved_server: TritonServer, small_build: Path) -> None:
    taken = Endpoints(http=0, grpc=moved_server.endpoints.grpc, metrics=0)
    with TritonServer(small_build, endpoints=taken) as second, pytest.raises(ServerFailed, match="already in use"):
        second.wait_ready(SECONDS)
    assert processes(small_build) == {}


def test_client_that_keeps_its_stream_open_does_not_keep_the_server(small_build: Path, no_leftovers) -> None:
    with TritonServer(small_build, endpoints=FREE_PORTS) as server:
        server.wait_ready(SECONDS)
        client = tritonclient.grpc.InferenceServerClient(f"{LOOPBACK}:{server.endpoints.grpc}")
        client.start_stream(lambda result, error: None)
        assert client.is_server_live()
    assert processes(small_build) == {}
    client.stop_stream(cancel_requests=True)


def test_model_that_does_not_load_is_shown_with_its_error(broken_build: Path, no_leftovers) -> None:
    (broken_build / "processor/tokenizer.json").write_text("{}")
    with TritonServer(broken_build, endpoints=FREE_PORTS) as server, pytest.raises(ServerFailed) as error:
        server.wait_ready(SECONDS)
    assert "before it was ready" in str(error.value)
    assert "tokenizer.json: not a tokenizer definition" in str(error.value)
    assert processes(broken_build) == {}


def test_unsound_repository_is_refused_before_a_server_starts(broken_build: Path, capsys, no_leftovers) -> None:
    (broken_build / "limits.json").unlink()
    with pytest.raises(ArtifactError, match=r"limits\.json does not exist"):
        TritonServer(broken_build)
    assert main(["serve", str(broken_build)]) == 1
    assert "cannot be served" in capsys.readouterr().err


def test_server_that_is_not_ready_in_time_is_given_up(small_build: Path, no_leftovers) -> None:
    with (TritonServer(small_build, endpoints=FREE_PORTS) as server,
          pytest.raises(ServerFailed, match="not ready after 0 s")):
        server.wait_ready(0)
    assert processes(small_build) == {}


def test_named_server_is_run_as_it_is(small_build: Path, tmp_path: Path, no_leftovers) -> None:
    script = tmp_path / "tritonserver"
    script.write_text('#!/bin/sh\necho "options: $*"\nexit 7\n')
    script.chmod(0o755)
    with (TritonServer(small_build, str(script), FREE_PORTS) as server,
          pytest.raises(ServerFailed, match="exit code 7") as error):
        server.wait_ready(SECONDS)
    assert f"--model-repository={small_build}/triton_repo" in str(error.value)
    assert "--http-address=127.0.0.1" in str(error.value)
    assert "--backend-directory" not in str(error.value)
