"""One timed request and a timed load, however the requests are served."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Streams one answer: yields the number of tokens generated so far, once for each piece of text.
Serve = Callable[[], Iterator[int]]


@dataclass(frozen=True)
class Timing:
    """Seconds from the request to the first piece of text and to the end, and generated tokens."""

    first: float
    total: float
    tokens: int


@dataclass(frozen=True)
class Load:
    """A number of requests at the same time: seconds (medians over requests) and tokens per second over all."""

    concurrency: int
    first: float
    total: float
    tokens_per_second: float
    tokens: int


def time_request(serve: Serve) -> Timing:
    started = time.perf_counter()
    pieces = [(time.perf_counter() - started, tokens) for tokens in serve()]
    return Timing(pieces[0][0], time.perf_counter() - started, pieces[-1][1])


def time_load(serve: Serve, concurrency: int, rounds: int) -> Load:
    """Run `concurrency` requests at the same time, `rounds` times; the median round counts."""
    loads = [_one_round(serve, concurrency) for _ in range(rounds)]
    return sorted(loads, key=lambda load: load.tokens_per_second)[len(loads) // 2]


def _one_round(serve: Serve, concurrency: int) -> Load:
    timings: list[Timing] = []
    threads = [threading.Thread(target=lambda: timings.append(time_request(serve))) for _ in range(concurrency)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started
    if len(timings) != concurrency:
        raise RuntimeError(f"{concurrency - len(timings)} of {concurrency} requests failed")
    tokens = sum(timing.tokens for timing in timings)
    return Load(concurrency, statistics.median(timing.first for timing in timings),
                statistics.median(timing.total for timing in timings), tokens / wall, tokens)
