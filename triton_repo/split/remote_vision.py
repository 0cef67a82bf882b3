"""The vision step of a language server: rows come from encode servers."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engines.batching.admission import require_room
from qwen3vl.errors import InvalidRequest
from triton_repo.build_paths import BuildPaths
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.receiver import EncodeConnection
from triton_repo.split.encode_server import EncodeServer
from triton_repo.split.media import Media
from triton_repo.split.pairing import Pairing
from triton_repo.split.pool import EncodePool
from triton_repo.split.row_source import RowSource, SourceStats

log = logging.getLogger(__name__)

OnRows = Callable[[np.ndarray | Exception], None]


class RemoteVision:
    """Puts the rows of a request's files together.

    Args:
        source: where the rows of each file come from.
        hidden: width of a row.
        queue_limit: requests with images that may wait.
    """

    def __init__(self, source: RowSource, hidden: int, queue_limit: int) -> None:
        self._source, self._limit = source, queue_limit
        self._none = np.empty((0, hidden), np.float32)
        self._waiting = 0
        self._lock = threading.Lock()
        self._done: queue.SimpleQueue[tuple[OnRows, np.ndarray | Exception] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver_loop, name="deliver", daemon=True)
        self._thread.start()

    @classmethod
    def of_build(cls, build: BuildPaths, parameters: Mapping[str, str]) -> RemoteVision:
        """For the model's parameters, those of `repository.Options` and `Pairing`."""
        pairing, transport = Pairing.from_parameters(parameters), parameters["transport"]

        def connect(url: str, description: RowsDescription) -> EncodeConnection:
            return EncodeConnection(url, transport, description)

        pool = EncodePool(build.encode_servers_file, lambda url: EncodeServer(url, pairing, connect))
        source = RowSource(pool, pairing, int(parameters["row_cache_mib"]) * 2**20, int(parameters["encode_seconds"]))
        return cls(source, pairing.hidden, build.limits().queue)

    def submit(self, media: Sequence[Media], request_id: str, on_rows: OnRows) -> None:
        """Get the rows of one request.

        Args:
            media: its images and videos in order of appearance.
            request_id: for the encode servers' logs.
            on_rows: called with visual rows float32 [(1 + D) * N, hidden] or an exception: at once for a request
                without images, else from a thread of its own, the same for all requests.

        Raises:
            Overloaded: as many requests with images as the limit `queue` allows are waiting.
        """
        if not media:
            on_rows(self._none)
            return
        with self._lock:
            require_room(self._waiting, self._limit, "requests with images")
            self._waiting += 1
        parts = _Parts(media, lambda rows: self._done.put((on_rows, rows)))
        for i, item in enumerate(media):
            self._source.get(item, request_id, lambda rows, i=i: parts.put(i, rows))

    def stats(self) -> SourceStats:
        return self._source.stats()

    def close(self) -> None:
        """What is not there yet ends with an error."""
        self._source.close()
        self._done.put(None)
        self._thread.join()

    def _deliver_loop(self) -> None:
        while (done := self._done.get()) is not None:
            on_rows, rows = done
            with self._lock:
                self._waiting -= 1
            try:
                on_rows(rows)
            except Exception:
                log.exception("visual rows could not be delivered")


class _Parts:
    """The rows of each file of a request, in whatever order they come."""

    def __init__(self, media: Sequence[Media], on_all: OnRows) -> None:
        self._media, self._on_all = media, on_all
        self._parts: list[np.ndarray | Exception | None] = [None] * len(media)
        self._missing = len(media)
        self._lock = threading.Lock()

    def put(self, i: int, rows: np.ndarray | Exception) -> None:
        with self._lock:
            self._parts[i] = rows
            self._missing -= 1
            last = self._missing == 0
        if last:
            self._on_all(self._joined())

    def _joined(self) -> np.ndarray | Exception:
        """All rows, or the error of the first file that has one: that which a whole server would have found."""
        for item, part in zip(self._media, self._parts, strict=True):
            if isinstance(part, InvalidRequest):
                return InvalidRequest(f"{item.name}: {part}")
            if isinstance(part, Exception):
                return part
        try:
            return np.concatenate(self._parts) if len(self._parts) > 1 else self._parts[0]
        except MemoryError as error:
            return error
