"""Visual rows of one file: from the cache, from a fetch that is under way, or from an encode server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from qwen3vl.errors import Overloaded, Qwen3VLError
from triton_repo.handoff.job import EncodeJob
from triton_repo.split.media import Media
from triton_repo.split.pairing import Pairing
from triton_repo.split.pool import EncodePool, PoolStats
from triton_repo.split.row_cache import CacheStats, RowCache

log = logging.getLogger(__name__)

# Files that are fetched at the same time: enough for several encode servers to have groups to encode.
FETCHES = 64

OnRows = Callable[[np.ndarray | Exception], None]


@dataclass(frozen=True)
class SourceStats:
    """Attributes: `fetched` from encode servers, `joined` to a fetch under way: files since the start."""

    cache: CacheStats
    pool: PoolStats
    fetched: int
    joined: int


class RowSource:
    """Gives rows to whoever asks, asking encode servers as little as possible.

    Args:
        pool: the encode servers.
        pairing: what the rows must be.
        cache_bytes: of rows that are kept at most.
        seconds: that a file may take, waiting for an encode server included.
    """

    def __init__(self, pool: EncodePool, pairing: Pairing, cache_bytes: int, seconds: float) -> None:
        self._pool, self._pairing, self._seconds = pool, pairing, seconds
        self._cache = RowCache(cache_bytes)
        self._fetching = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        self._waiting: dict[bytes, list[OnRows]] = {}
        self._fetched = self._joined = 0
        self._lock = threading.Lock()

    def get(self, media: Media, request_id: str, on_rows: OnRows) -> None:
        """Get the rows of one file.

        Args:
            request_id: for the encode server's log.
            on_rows: called once, at once or from another thread, with rows float32 [(1 + D) * tokens, hidden] that
                nobody may change, or with an exception: `InvalidRequest` or another of this project's.
        """
        with self._lock:
            # Looked up under the lock: a fetch that ends enters its rows before it leaves the list of those waited for.
            if (waiting := self._waiting.get(media.hash)) is not None:
                waiting.append(on_rows)
                self._joined += 1
                return
            rows = self._cached(media)
            if rows is None:
                self._waiting[media.hash] = [on_rows]
        if rows is not None:
            on_rows(rows)
            return
        try:
            self._fetching.submit(self._fetch, media, request_id, time.monotonic() + self._seconds)
        except RuntimeError:
            self._end(media, Overloaded("the server is stopping: try again later"))

    def stats(self) -> SourceStats:
        return SourceStats(self._cache.stats(), self._pool.stats(), self._fetched, self._joined)

    def close(self) -> None:
        """What is not there yet ends with an error."""
        self._pool.close()
        self._fetching.shutdown()

    def _cached(self, media: Media) -> np.ndarray | None:
        engine = self._pool.engine
        return None if engine is None else self._cache.get((engine, media.hash))

    def _fetch(self, media: Media, request_id: str, deadline: float) -> None:
        job = EncodeJob(request_id, media.hash, media.data, media.kind, media.grid)
        try:
            engine, rows = self._pool.fetch(job, self._pairing.rows(media.grid), deadline)
            self._require_right(rows, media)
            self._cache.put((engine, media.hash), rows)
        except Exception as error:
            if not isinstance(error, Qwen3VLError):
                log.exception("fetching the rows of %s failed", media.name)
            self._end(media, error)
        else:
            self._end(media, rows)

    def _end(self, media: Media, rows: np.ndarray | Exception) -> None:
        with self._lock:
            waiting = self._waiting.pop(media.hash)
            self._fetched += not isinstance(rows, Exception)
        for on_rows in waiting:
            on_rows(rows)

    def _require_right(self, rows: np.ndarray, media: Media) -> None:
        expected = (self._pairing.rows(media.grid), self._pairing.hidden)
        if rows.shape != expected or rows.dtype != np.float32:
            raise Qwen3VLError(f"visual rows are {rows.dtype} {list(rows.shape)}, expected float32 {list(expected)}")
