"""Visual rows of images that may come again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

# Engine, and hash of a file with its preparation: what the rows depend on.
Key = tuple[str, bytes]


@dataclass(frozen=True)
class CacheStats:
    """Attributes: `bytes` and `entries` are there now, the others have been counted since the start."""

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0


class RowCache:
    """Keeps what was used last, up to a number of bytes; may be used from any thread.

    Args:
        limit: bytes of rows that are kept at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> np.ndarray | None:
        """The rows, which nobody may change, or None."""
        with self._lock:
            rows = self._rows.get(key)
            if rows is None:
                self._misses += 1
                return None
            self._hits += 1
            self._rows.move_to_end(key)
            return rows

    def put(self, key: Key, rows: np.ndarray) -> None:
        """Keep rows; those not used for the longest time make room. What is larger than the cache is not kept."""
        with self._lock:
            if rows.nbytes > self._limit or key in self._rows:
                return
            # A view would hold the whole of what it is a part of.
            kept = rows if rows.base is None else rows.copy()
            kept.flags.writeable = False
            self._rows[key] = kept
            self._bytes += kept.nbytes
            while self._bytes > self._limit:
                _, oldest = self._rows.popitem(last=False)
                self._bytes -= oldest.nbytes
                self._evictions += 1

    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(len(self._rows), self._bytes, self._hits, self._misses, self._evictions)
