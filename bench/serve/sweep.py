"""Loads one after the other, until the server saturates or all that were asked for are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from bench.serve.arrivals import poisson_arrivals
from bench.serve.load import LoadClient, LoadRun
from bench.serve.record import Record
from bench.serve.server_watch import ServerWatch
from bench.serve.statistics import LoadSummary, summarise

# Offered loads of a sweep, by what the server can do with many requests waiting. Beyond the last, each is this much
# more than the one before.
SHARES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
STEP = 1.2
LOADS = 16
# However short a load is to be: fewer requests say nothing of percentiles, nor whether a server keeps up.
LEAST_REQUESTS = 20


class Sweep:
    """Puts loads on a server.

    Attributes:
        runs, summaries: of the loads so far; the first run of a sweep, with its summary, is `capacity`.

    Args:
        count: requests of each load.
        seed: of the arrivals.
        show: called with the summary of each load.
        seconds: that an offered load goes on for, with fewer or more requests than `count` then; None for any.
    """

    def __init__(self, client: LoadClient, count: int, watch: ServerWatch, seed: int,
                 show: Callable[[LoadSummary], None], seconds: float | None = None):
        self._client, self._count, self._watch, self._seed, self._show = client, count, watch, seed, show
        self._seconds = seconds
        self.capacity: LoadSummary | None = None
        self.runs: list[LoadRun] = []
        self.summaries: list[LoadSummary] = []

    @property
    def interrupted(self) -> bool:
        return any(run.interrupted for run in self.runs)

    def closed(self, concurrency: int) -> LoadSummary:
        """Keep so many requests under way."""
        with progress(self._count, f"{concurrency} at a time") as on_record:
            run = self._client.closed_loop(self._count, concurrency, on_record)
        return self._done(run, None, concurrency)

    def open(self, rate: float) -> LoadSummary:
        """Let so many requests a second come."""
        count = self._count if self._seconds is None else max(LEAST_REQUESTS, round(rate * self._seconds))
        # The same pattern at each rate, faster or slower.
        arrivals = poisson_arrivals(rate, count, self._seed)
        with progress(count, f"{rate:.3g} requests/s") as on_record:
            run = self._client.open_loop(arrivals, on_record)
        return self._done(run, rate, None)

    def until_saturated(self, concurrency: int) -> None:
        """Find out what the server can do with `concurrency` requests under way, then offer ever more of it."""
        self.capacity = self.closed(concurrency)
        for rate in sweep_rates(self.capacity.requests_per_second):
            if self.interrupted or self.open(rate).saturated:
                return

    def _done(self, run: LoadRun, offered: float | None, concurrency: int | None) -> LoadSummary:
        self._watch.look()
        summary = summarise(run, self._watch.between(run.began, run.ended), offered, concurrency)
        self.runs.append(run)
        self.summaries.append(summary)
        self._show(summary)
        return summary


def sweep_rates(capacity: float) -> Iterator[float]:
    """Offered loads for a server that can answer `capacity` requests a second; none if it answers nothing."""
    if capacity <= 0:
        return
    yield from (share * capacity for share in SHARES)
    yield from (SHARES[-1] * STEP**i * capacity for i in range(1, LOADS - len(SHARES) + 1))


@contextmanager
def progress(count: int, name: str) -> Iterator[Callable[[Record], None]]:
    """A bar of requests that have ended, with their rate and the time left."""
    errors = 0
    with tqdm(total=count, desc=name, unit="request", leave=False, mininterval=0.5, disable=None) as bar:
        def on_record(record: Record) -> None:
            nonlocal errors
            errors += record.error is not None
            bar.set_postfix(errors=errors, refresh=False)
            bar.update()

        yield on_record
