"""The encode servers in the list: opened, asked again and again how they do, closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qwen3vl.errors import ArtifactError
from triton_repo.split.encode_server import EncodeServer, ServerState
from triton_repo.split.server_list import read_servers

log = logging.getLogger(__name__)

# How often the list is read and each server asked how it does.
CHECK_SECONDS = 1.0
UNCHECKED = ServerState(None, "it has not answered yet")


@dataclass
class Member:
    """A server in the list.

    Attributes:
        state: what it said last, or why it is not trusted.
        lost: whether it did not answer when it was last asked.
        rows: that this process has asked it for and not got yet.
        chosen: number of the choice that fell on it last.
    """

    server: EncodeServer
    state: ServerState = UNCHECKED
    lost: bool = False
    rows: int = 0
    chosen: int = 0
    recheck: threading.Event = field(default_factory=threading.Event)
    removed: bool = False

    @property
    def outstanding_rows(self) -> int:
        """Its own, and those of other language servers as far as they are known."""
        return self.rows + self.state.rows_for_others


class Members:
    """Follows the list and the servers in it.

    Visual rows come from one engine at a time. It is that of the first server that is ready, and stays until no server
    with it is left while there are some with another: answers must not depend on who encodes.

    Attributes:
        changed: guards members and engine; notified whenever they have changed.
        engine: hash of the engine that rows come from; None before any server was ready.

    Args:
        path: the list of servers (see `server_list`).
        open_server: makes the server at an address.
    """

    def __init__(self, path: Path, open_server: Callable[[str], EncodeServer]) -> None:
        self._path, self._open_server = path, open_server
        self._members: dict[str, Member] = {}
        self._list_problem = ""
        self._closing = threading.Event()
        self.engine: str | None = None
        self.changed = threading.Condition()
        self._follow_list()
        threading.Thread(target=self._follow_loop, name="encode servers", daemon=True).start()

    def listed(self) -> list[Member]:
        with self.changed:
            return list(self._members.values())

    def usable(self) -> list[Member]:
        """Those that are ready and have the engine."""
        with self.changed:
            return [member for member in self._members.values()
                    if member.state.engine is not None and member.state.engine == self.engine]

    def distrust(self, member: Member, problem: str) -> None:
        """A server that failed is used again after it has been asked how it does."""
        log.warning("encode server %s: %s", member.server.url, problem)
        with self.changed:
            member.state = ServerState(None, problem)
        member.recheck.set()

    def close(self) -> None:
        self._closing.set()
        with self.changed:
            members, self._members = list(self._members.values()), {}
            self.changed.notify_all()
        for member in members:
            _remove(member)

    def _follow_loop(self) -> None:
        while not self._closing.wait(CHECK_SECONDS):
            self._follow_list()

    def _follow_list(self) -> None:
        try:
            urls = read_servers(self._path)
        except ArtifactError as error:
            if str(error) != self._list_problem:
                log.error("%s; the encode servers stay as they were", error)
            self._list_problem = str(error)
            return
        self._list_problem = ""
        with self.changed:
            if self._closing.is_set():
                return
            gone = [self._members.pop(url) for url in set(self._members) - set(urls)]
            for url in urls:
                if url not in self._members:
                    self._members[url] = member = Member(self._open_server(url))
                    threading.Thread(target=self._watch, args=(member,), name=f"watch {url}", daemon=True).start()
            self.changed.notify_all()
        for member in gone:
            log.info("encode server %s is no longer listed", member.server.url)
            _remove(member)

    def _watch(self, member: Member) -> None:
        known = member.state.problem
        while not member.removed:
            member.recheck.clear()
            state = member.server.check()
            with self.changed:
                if member.recheck.is_set():
                    continue  # it failed meanwhile, so what it said before counts for nothing
                member.state, member.lost = state, state.engine is None
                self._choose_engine()
                self.changed.notify_all()
            if state.problem != known:
                known = state.problem
                log.info("encode server %s: %s", member.server.url, known or "ready")
            member.recheck.wait(CHECK_SECONDS)

    def _choose_engine(self) -> None:
        engines = [member.state.engine for member in self._members.values() if member.state.engine is not None]
        if engines and self.engine not in engines:
            if self.engine is not None:
                log.warning("visual rows come from another vision engine from now on: %s", engines[0])
            self.engine = engines[0]


def _remove(member: Member) -> None:
    member.removed = True
    member.recheck.set()
    member.server.close()
