"""Work divided among threads, for what lets go of Python's lock: copies, checksums, resizing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, wait


def share(pool: Executor, work: Callable[[int, int], None], length: int, shares: int) -> None:
    """Do work from 0 to `length` in so many shares, each from its begin to its end. This thread does the first.

    Returns or raises when all have ended: what they work on may be somebody else's after that.

    Args:
        pool: does the other shares; must not be the one that this thread belongs to.
    """
    edges = [length * i // shares for i in range(shares + 1)]
    others = [pool.submit(work, *edges[i:i + 2]) for i in range(1, shares)]
    try:
        work(*edges[:2])
    finally:
        wait(others)
    for other in others:
        other.result()
