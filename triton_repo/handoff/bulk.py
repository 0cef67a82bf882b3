"""Many bytes copied and summed up, by several threads at once: one alone does not use all of a machine's memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xxhash

from qwen3vl.shared_work import share

# Of what is summed up. Part of the protocol: both sides must have the same.
PART_BYTES = 1024 * 1024
# More hardly help, and there are other things to be done.
THREADS = min(4, len(os.sched_getaffinity(0)))

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="bulk")


def checksum(data: np.ndarray) -> int:
    """64 bits that stand for contiguous bytes, uint8 [n]: the XXH3 of the XXH3 of each `PART_BYTES` of them.

    XXH3 is as fast as memory is read; CRC-32 of zlib takes several times as long.
    """
    sums = np.empty(-(-data.nbytes // PART_BYTES), "<u8")

    def sum_up(first: int, last: int) -> None:
        for part in range(first, last):
            sums[part] = xxhash.xxh3_64_intdigest(data[part * PART_BYTES:(part + 1) * PART_BYTES])

    _share(data.nbytes, sum_up)
    return xxhash.xxh3_64_intdigest(sums)


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """Copy contiguous bytes, uint8 [n] to uint8 [n]."""

    def copy_parts(first: int, last: int) -> None:
        part = slice(first * PART_BYTES, last * PART_BYTES)
        np.copyto(target[part], source[part])

    if target.shape != source.shape:
        raise ValueError(f"{source.nbytes} bytes cannot be copied to {target.nbytes}")
    _share(source.nbytes, copy_parts)


def _share(size: int, work: Callable[[int, int], None]) -> None:
    """Have parts [first, last) worked at by as many threads as there are parts for."""
    parts = -(-size // PART_BYTES)
    share(_pool, work, parts, max(1, min(THREADS, parts)))
