"""Work on the rows of many matrices, by all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

# Values that one thread works on at a time. With fewer, threads wait for each other's turn with Python's lock; with
# more, intermediate arrays leave the cache.
SLICE_VALUES = 1 << 18
# Slices for each thread that are begun beyond those of the matrix that is waited for.
AHEAD = 2

Arrays = tuple[np.ndarray, ...]


def in_slices(matrices: Iterable[np.ndarray], work: Callable[[np.ndarray], Arrays]) -> Iterator[Arrays]:
    """What becomes of each matrix, in their order, while the next ones are worked on.

    Args:
        matrices: [N, K]; they are asked for shortly before their turn.
        work: of some rows [n, K] makes arrays [n, ...], which are joined to [N, ...].
    """
    threads = len(os.sched_getaffinity(0))
    begun: deque[list[Future[Arrays]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for matrix in matrices:
                step = max(1, SLICE_VALUES // matrix.shape[1])
                begun.append([pool.submit(work, matrix[start : start + step])
                              for start in range(0, len(matrix), step)])
                while sum(map(len, begun)) - len(begun[0]) >= AHEAD * threads:
                    yield _joined(begun.popleft())
            while begun:
                yield _joined(begun.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _joined(parts: list[Future[Arrays]]) -> Arrays:
    return tuple(np.concatenate(arrays) for arrays in zip(*(part.result() for part in parts), strict=True))
