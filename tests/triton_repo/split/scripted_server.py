"""An encode server that does what a test says, in the test's own process: for who is asked when, and what then.

The servers of the live tests are real; this one can be made to fail, wait or answer at will.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from triton_repo.handoff.errors import Cancelled, TimedOut
from triton_repo.handoff.job import EncodeJob
from triton_repo.split.encode_server import ServerState
from triton_repo.split.pool import EncodePool
from triton_repo.split.server_list import write_servers

SECONDS = 30
HIDDEN = 8
ENGINE = "engine"


def rows_of(job: EncodeJob) -> np.ndarray:
    """The rows of a job: as many as its grid has patches."""
    return np.full((int(np.prod(job.grid)), HIDDEN), job.media[0], np.float32)


def make_job(number: int = 1, patches: int = 4) -> EncodeJob:
    return EncodeJob(f"request {number}", bytes([number]) * 32, bytes([number]), "image", (1, 1, patches))


class ScriptedServer:
    """Attributes:
        engine, problem, load: what it says when it is asked how it does.
        errors: what it fails with, one after the other; then it works.
        asked: jobs that it has been asked for.
        open: whether it answers; while it is not, fetches wait.
    """

    def __init__(self, url: str, engine: str = ENGINE) -> None:
        self.url, self.engine, self.problem, self.load = url, engine, "", 0
        self.errors: list[Exception] = []
        self.asked: list[EncodeJob] = []
        self.open = threading.Event()
        self.open.set()
        self.closed = False
        self.checks = 0

    def check(self) -> ServerState:
        self.checks += 1
        return ServerState(None, self.problem) if self.problem else ServerState(self.engine, "", self.load)

    def fetch(self, engine: str, job: EncodeJob, deadline: float, cancelled: Callable[[], bool]) -> np.ndarray:
        assert engine == self.engine
        self.asked.append(job)
        while not self.open.wait(0.01):
            if self.closed or cancelled():
                raise Cancelled("closed")
            if time.monotonic() > deadline:
                raise TimedOut("not in time")
        if self.errors:
            raise self.errors.pop(0)
        return rows_of(job)

    def close(self) -> None:
        self.closed = True


class ScriptedPool:
    """A pool of scripted servers.

    Attributes:
        servers: by address; those in the list are opened by the pool.
    """

    def __init__(self, folder: Path, *servers: ScriptedServer) -> None:
        self.servers = {server.url: server for server in servers}
        self.path = folder / "encode_servers.txt"
        self.list(*self.servers)
        self.pool = EncodePool(self.path, self.servers.__getitem__)
        self._threads = ThreadPoolExecutor(64)

    def list(self, *urls: str) -> None:
        write_servers(self.path, urls)

    def start(self, job: EncodeJob, seconds: float = SECONDS):
        """Fetch in another thread; a future of engine and rows."""
        return self._threads.submit(self.fetch, job, seconds)

    def fetch(self, job: EncodeJob, seconds: float = SECONDS) -> tuple[str, np.ndarray]:
        return self.pool.fetch(job, int(np.prod(job.grid)), time.monotonic() + seconds)

    def close(self) -> None:
        self.pool.close()
        self._threads.shutdown()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
