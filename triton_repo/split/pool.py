"""Which encode server gets the next image, and what happens when it fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen3vl.errors import Overloaded
from triton_repo.handoff.errors import Busy, Cancelled, HandoffError, Refused, TimedOut
from triton_repo.handoff.job import EncodeJob
from triton_repo.split.attempts import Attempts
from triton_repo.split.encode_server import EncodeServer
from triton_repo.split.members import CHECK_SECONDS, Member, Members

# Before servers that were busy are asked again for the same image.
PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class PoolStats:
    """Attributes: encode servers that are `listed` and `ready`; `outstanding_rows` that they have been asked for;
    `retries`: how often an image was asked for once more."""

    listed: int = 0
    ready: int = 0
    outstanding_rows: int = 0
    retries: int = 0


class EncodePool:
    """Fetches rows from the server with the fewest outstanding ones; goes to another when a server fails.

    Args:
        path: the list of servers (see `server_list`), followed while it changes.
        open_server: makes the server at an address.
    """

    def __init__(self, path: Path, open_server: Callable[[str], EncodeServer]) -> None:
        self._path = path
        self._members = Members(path, open_server)
        self._choices = self._retries = 0
        self._closing = threading.Event()

    @property
    def engine(self) -> str | None:
        """Hash of the vision engine that rows come from; None before any server was ready."""
        return self._members.engine

    def stats(self) -> PoolStats:
        with self._members.changed:
            listed = self._members.listed()
            return PoolStats(len(listed), len(self._members.usable()), sum(member.rows for member in listed),
                             self._retries)

    def fetch(self, job: EncodeJob, rows: int, deadline: float) -> tuple[str, np.ndarray]:
        """Fetch the rows of a job, from as many servers as it takes.

        Args:
            rows: how many there will be.
            deadline: by `time.monotonic`; covers waiting for a server too.

        Returns:
            The engine's hash, and the rows.

        Raises:
            InvalidRequest: the file cannot be served.
            Overloaded: no server could do it by the deadline, or this one is stopping.
            EncodeFailed: several servers failed at it.
        """
        attempts = Attempts()
        while True:
            member, engine = self._take(rows, deadline, attempts)
            try:
                return engine, member.server.fetch(engine, job, deadline,
                                                   lambda member=member: self._better_off(member))
            except Refused:
                raise
            except HandoffError as error:
                if not isinstance(error, (Busy, Cancelled, TimedOut)):
                    self._members.distrust(member, str(error))
                attempts.failed(member.server.url, error)
            finally:
                with self._members.changed:
                    member.rows -= rows
                    self._members.changed.notify_all()

    def close(self) -> None:
        """What is being fetched ends with an error."""
        self._closing.set()
        self._members.close()

    def _better_off(self, member: Member) -> bool:
        """Whether what this server was asked for should rather be asked of another."""
        return self._closing.is_set() or (member.lost and bool(self._members.usable()))

    def _take(self, rows: int, deadline: float, attempts: Attempts) -> tuple[Member, str]:
        """Wait for a server that may be asked, and count the rows as its."""
        with self._members.changed:
            while True:
                if self._closing.is_set():
                    raise Overloaded("the server is stopping: try again later")
                if not (listed := self._members.listed()):
                    raise Overloaded(f"no encode server is listed in {self._path.name}, so images cannot be served: "
                                     "try again later")
                if (remaining := deadline - time.monotonic()) <= 0:
                    raise Overloaded(attempts.summary({member.server.url: member.state for member in listed}))
                usable = self._members.usable()
                if untried := [member for member in usable if member.server.url not in attempts.tried]:
                    member = min(untried, key=lambda member: (member.outstanding_rows, member.chosen))
                    self._choices += 1
                    self._retries += attempts.any
                    member.rows, member.chosen = member.rows + rows, self._choices
                    return member, self._members.engine
                # All have been asked: again from the beginning, in a while.
                attempts.tried.clear()
                self._members.changed.wait(min(remaining, PAUSE_SECONDS if usable else CHECK_SECONDS))
