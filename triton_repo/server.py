"""A running `tritonserver`: started, watched until ready, stopped with everything that belongs to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from qwen3vl.errors import Qwen3VLError
from triton_repo import die_with_parent
from triton_repo.build_paths import BuildPaths
from triton_repo.device_rows import stay_on_gpu
from triton_repo.endpoints import Endpoints
from triton_repo.gpu_arguments import gpu_arguments
from triton_repo.gpu_memory import require_memory
from triton_repo.repo_check import require_sound
from triton_repo.roles import Role
from triton_repo.server_binary import KEEP_MEMORY, find_server
from triton_repo.server_log import ServerLog
from triton_repo.server_runtime import make_runtime, remove_leftovers, remove_runtime
from triton_repo.whole import URL_VARIABLE

# How long requests may still run after a stop, and how long the rest may take.
EXIT_SECONDS = 10
UNLOAD_SECONDS = 10
# tritonserver waits without end for clients that keep a stream open, when nothing is left to serve them.
GONE_SECONDS = 3
POLL_SECONDS = 0.1


class ServerFailed(Qwen3VLError):
    """The server did not become ready, or ended; the message has the end of its log."""


class TritonServer:
    """Serves the model repository of one build; use it as a context manager or call `stop`.

    The server gets SIGTERM when the thread that started it ends, so that it cannot outlive this process.

    Attributes:
        endpoints: where it listens.
        log: what it writes.

    Args:
        build: the build folder.
        server: path or command name of a tritonserver; by default see `find_server`.
        endpoints: where to listen.
        log: file to write the server's log to; by default one that goes with the server.
        role: which of the build's repositories to serve.

    Raises:
        ArtifactError: the repository is not sound, its decoder does not fit the GPU, or there is no server that can
            run it.
    """

    def __init__(self, build: Path, server: str | None = None, endpoints: Endpoints | None = None,
                 log: Path | None = None, role: Role = Role.BOTH) -> None:
        paths = BuildPaths(build.absolute())
        require_sound(repository := paths.repository(role))
        require_memory(paths, role)
        self._needs_pool = stay_on_gpu(paths, role)
        remove_leftovers()
        self._runtime = make_runtime()
        try:
            binary = find_server(server, self._runtime)
            self.endpoints = (endpoints or Endpoints()).chosen()
            self.log = ServerLog(log or self._runtime / "tritonserver.log")
            arguments = [str(binary.path), *binary.arguments, *self._arguments(repository), *gpu_arguments(paths, role)]
            environment = {**KEEP_MEMORY, **os.environ, **binary.environment,
                           URL_VARIABLE: f"{self.endpoints.local_host}:{self.endpoints.grpc}"}
            self._process = self._start(arguments, environment)
        except BaseException:
            remove_runtime(self._runtime)
            raise

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, timeout: float, on_progress: Callable[[str], None] = lambda line: None,
                   stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait until every model is loaded.

        Args:
            timeout: seconds.
            on_progress: called with a line of text whenever a model starts or ends loading.
            stopping: asked all the time; ends the wait early.

        Raises:
            ServerFailed: the server ended, is not ready in time, or lacks GPU memory that it will need.
        """
        deadline = time.monotonic() + timeout
        while not stopping() and not self._ready():
            for line in self.log.progress():
                on_progress(line)
            if (code := self._process.poll()) is not None:
                raise ServerFailed(f"tritonserver ended with exit code {code} before it was ready.\n{self.log.tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"tritonserver is not ready after {timeout:.0f} s.\n{self.log.tail()}")
            time.sleep(POLL_SECONDS)
        for line in self.log.progress():
            on_progress(line)
        if self._needs_pool and self.log.lacks_gpu_pool():
            raise ServerFailed("tritonserver could not set up its pool of GPU memory, through which visual rows go: "
                               "free some of the GPU, or pass rows on in the host's memory with `qwen3vl compose "
                               f"--visual-rows host`.\n{self.log.tail()}")

    def check(self) -> None:
        """Check that the server runs with all of its models.

        Raises:
            ServerFailed: it ended, or one of its model processes did: Triton does not start these again.
        """
        if (code := self._process.poll()) is not None:
            raise ServerFailed(f"tritonserver ended with exit code {code}.\n{self.log.tail()}")
        if _has_dead_child(self._process.pid):
            raise ServerFailed(f"a model's process ended unexpectedly.\n{self.log.tail()}")

    def stop(self) -> None:
        """Stop the server: running requests may end within `EXIT_SECONDS`. Does nothing the second time."""
        if not self._runtime.exists():
            return
        if self._process.poll() is None:
            self._process.terminate()
        deadline = time.monotonic() + EXIT_SECONDS + UNLOAD_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if self.log.models_gone():
                deadline = min(deadline, time.monotonic() + GONE_SECONDS)
            time.sleep(POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the server and its model processes at once and remove what they left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            # The models' processes are not ours to wait for, so look until they are gone.
            deadline = time.monotonic() + GONE_SECONDS
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, 0)
                time.sleep(POLL_SECONDS)
        self._process.wait()
        remove_runtime(self._runtime)

    def _arguments(self, repository: Path) -> list[str]:
        at, host = self.endpoints, self.endpoints.host
        return [
            f"--model-repository={repository}", "--model-control-mode=none", "--disable-auto-complete-config",
            f"--http-address={host}", f"--http-port={at.http}", f"--grpc-address={host}", f"--grpc-port={at.grpc}",
            f"--metrics-address={host}", f"--metrics-port={at.metrics}", f"--exit-timeout-secs={EXIT_SECONDS}",
            f"--backend-config=python,shm-region-prefix-name={self._runtime.name}-"]

    def _start(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
        launcher = [sys.executable, die_with_parent.__file__, str(os.getpid())]
        with open(self.log.path, "wb") as log:
            # A session of its own: Ctrl-C in a terminal goes to this process alone, which then stops the server.
            return subprocess.Popen([*launcher, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=subprocess.STDOUT, start_new_session=True)

    def _ready(self) -> bool:
        at = self.endpoints
        try:
            # Triton opens its endpoints one after the other, metrics last.
            for path in (f"{at.http}/v2/health/ready", f"{at.metrics}/metrics"):
                with urllib.request.urlopen(f"http://{at.local_host}:{path}", timeout=5) as response:
                    if response.status != 200:
                        return False
        except (urllib.error.URLError, OSError):
            return False
        return self._process.poll() is None  # Ours, and not another server on the same port.


def _has_dead_child(pid: int) -> bool:
    """Whether a child of this process has ended without being waited for, as Triton's model processes do."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            try:
                state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                continue
            if state == "Z":
                return True
    return False
