"""What the server does meanwhile: its queue, its slots and its memory, now and then."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

from client.status import METRIC_LINE

SECONDS = 5
SIZE_LINE = re.compile(r"^(Pss\w*): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """The server at one time.

    Attributes:
        at: seconds of the monotonic clock.
        memory_bytes: resident memory of its processes, what they share counted once; None if it is not known. Pages of
            files that other programs have mapped too count in part.
        own_bytes: that of it which is no file's: what they allocated, shared memory included.
        queued, active: requests that wait for a slot and that have one; None if it gives no metrics.
    """

    at: float
    memory_bytes: int | None
    own_bytes: int | None
    queued: float | None
    active: float | None


class ServerWatch:
    """Looks at a server from a thread of its own; use it as a context manager.

    Attributes:
        samples: so far, oldest first.

    Args:
        metrics_url: host:port of the metrics endpoint.
        pid: the server's process, where it runs on this machine.
        interval: seconds between samples.
    """

    def __init__(self, metrics_url: str, pid: int | None, interval: float):
        self.samples: list[Sample] = []
        self._metrics_url, self._pid, self._interval = metrics_url, pid, interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="server watch", daemon=True)

    def __enter__(self) -> ServerWatch:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def look(self) -> Sample:
        """Take a sample now."""
        metrics = read_metrics(self._metrics_url) or {}
        memory, own = (resident_bytes(self._pid) if self._pid else None) or (None, None)
        self.samples.append(Sample(time.monotonic(), memory, own, metrics.get("decoder_queued_requests"),
                                   metrics.get("decoder_active_slots")))
        return self.samples[-1]

    def between(self, began: float, ended: float) -> list[Sample]:
        return [sample for sample in self.samples if began <= sample.at <= ended]

    def _loop(self) -> None:
        while not self._stopping.wait(self._interval):
            self.look()


def read_metrics(url: str) -> dict[str, float] | None:
    """This project's metrics, without their common beginning; None if there are none at this host:port."""
    try:
        with urllib.request.urlopen(f"http://{url}/metrics", timeout=SECONDS) as response:
            text = response.read().decode()
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return {name: float(value) for name, value in METRIC_LINE.findall(text)}


def resident_bytes(pid: int) -> tuple[int, int] | None:
    """Memory of a process and those it started, see `Sample`: all, and what is no file's. None if it is gone.

    Linux divides a page that several processes have by their number (smaps_rollup in proc(5)).
    """
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return None
    total = own = 0
    for process in processes:
        with contextlib.suppress(OSError):  # ended meanwhile
            sizes = {name: 1024 * int(size) for name, size in SIZE_LINE.findall(
                Path(f"/proc/{process.pid}/smaps_rollup").read_text())}
            total += sizes["Pss"]
            own += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
    return (total, own) if total else None


def listening_process(port: int) -> int | None:
    """The process of this machine that listens on a TCP port, if this user may know."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return connection.pid
    return None
