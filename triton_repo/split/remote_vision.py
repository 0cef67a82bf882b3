"""The vision step of a language server: rows come from encode servers."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engines.batching.admission import require_room
from engines.description import EngineDescription
from engines.visual_rows import VisualRows, join_rows
from qwen3vl.errors import InvalidRequest
from triton_repo.build_paths import BuildPaths
from triton_repo.device_rows import DEVICE, PLACE, PoolShare, group_bytes, open_rows_memory
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.receiver import EncodeConnection
from triton_repo.split.encode_server import EncodeServer
from triton_repo.split.media import Media
from triton_repo.split.pairing import Pairing
from triton_repo.split.pool import EncodePool
from triton_repo.split.row_source import RowSource, SourceStats
from triton_repo.split.row_upload import RowUpload

log = logging.getLogger(__name__)

OnRows = Callable[[VisualRows | Exception], None]
# Puts the rows of a request's files, float32 [R, hidden] each, one behind the other, where the decoder is to get them.
Join = Callable[[Sequence[np.ndarray], int], VisualRows]


class RemoteVision:
    """Puts the rows of a request's files together.

    Args:
        source: where the rows of each file come from.
        hidden: width of a row.
        queue_limit: requests with images that may wait.
        join: puts the rows together.
    """

    def __init__(self, source: RowSource, hidden: int, queue_limit: int, join: Join = join_rows) -> None:
        self._source, self._hidden, self._limit, self._join = source, hidden, queue_limit, join
        self._none = np.empty((0, hidden), np.float32)
        self._waiting = 0
        self._lock = threading.Lock()
        self._done: queue.SimpleQueue[tuple[OnRows, list[np.ndarray] | Exception] | None] = queue.SimpleQueue()
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
        join = _upload(build) if parameters.get(PLACE) == DEVICE else None
        return cls(source, pairing.hidden, build.limits().queue, join or join_rows)

    def submit(self, media: Sequence[Media], request_id: str, on_rows: OnRows) -> None:
        """Get the rows of one request.

        Args:
            media: its images and videos in order of appearance.
            request_id: for the encode servers' logs.
            on_rows: called with visual rows float32 [(1 + D) * N, hidden] or an exception: at once for a request
                without images, with an array, else from a thread of its own, the same for all requests.

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
            on_rows, parts = done
            with self._lock:
                self._waiting -= 1
            try:
                on_rows(parts if isinstance(parts, Exception) else self._joined(parts))
            except Exception:
                log.exception("visual rows could not be delivered")
            # Rows may take much of a GPU: none are held longer than it takes to deliver them.
            del done, on_rows, parts

    def _joined(self, parts: Sequence[np.ndarray]) -> VisualRows | Exception:
        try:
            return self._join(parts, self._hidden)
        except Exception as error:
            log.exception("visual rows could not be put together")
            return error


def _upload(build: BuildPaths) -> RowUpload | None:
    """Puts rows into the GPU's memory; None where that cannot be."""
    memory = open_rows_memory()
    limit = group_bytes(EngineDescription.load(build.engines).config)
    return None if memory is None else RowUpload(memory, PoolShare(limit).take)


class _Parts:
    """The rows of each file of a request, in whatever order they come."""

    def __init__(self, media: Sequence[Media], on_all: Callable[[list[np.ndarray] | Exception], None]) -> None:
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
            self._on_all(self._all())

    def _all(self) -> list[np.ndarray] | Exception:
        """All of them, or the error of the first file that has one: that which a whole server would have found."""
        for item, part in zip(self._media, self._parts, strict=True):
            if isinstance(part, InvalidRequest):
                return InvalidRequest(f"{item.name}: {part}")
            if isinstance(part, Exception):
                return part
        return self._parts
