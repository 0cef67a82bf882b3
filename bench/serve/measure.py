"""One measurement: loads, perhaps a comparison with the same requests alone, and what the server is left with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.serve.interruption import Interruption
from bench.serve.load import LoadClient
from bench.serve.server_watch import ServerWatch
from bench.serve.statistics import LoadSummary
from bench.serve.sweep import Sweep
from bench.serve.verify import Verification, verify
from bench.serve.workload import RequestSet

# How long a server may take, after the last answer, to free what clients left that hung up.
FREE_SECONDS = 15


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        count: requests of each load.
        rates: offered loads, requests per second.
        concurrency: numbers of requests under way at once. Without these and rates: a sweep.
        capacity_concurrency: requests under way while a sweep finds out what the server can do.
        verify: whether to ask all requests again, one at a time.
        seed: of the arrivals.
        seconds: that each offered load goes on for, instead of `count` requests.
    """

    count: int
    rates: Sequence[float] = ()
    concurrency: Sequence[int] = ()
    capacity_concurrency: int = 32
    verify: bool = False
    seed: int = 0
    seconds: float | None = None


@dataclass
class Measurement:
    """Attributes: `interrupted` says whether Ctrl-C ended it."""

    sweep: Sweep
    verification: Verification | None = None
    interrupted: bool = False


def measure(url: str, requests: RequestSet, timeout: float | None, plan: Plan, watch: ServerWatch,
            show: Callable[[LoadSummary], None]) -> Measurement:
    """Carry out a plan; Ctrl-C ends it early.

    Args:
        url: host:port of gRPC.
        timeout: seconds for one answer, None for any.
        show: called with the summary of each load.
    """
    with Interruption() as interruption:
        client = LoadClient(url, requests, timeout, interruption)
        measurement = Measurement(Sweep(client, plan.count, watch, plan.seed, show, plan.seconds))
        _put_loads(measurement.sweep, plan)
        if plan.verify and not interruption.requested:
            measurement.verification = verify(client, measurement.sweep.runs, plan.count)
        _wait_until_free(watch)
        measurement.interrupted = interruption.requested
    return measurement


def _put_loads(sweep: Sweep, plan: Plan) -> None:
    if not (plan.rates or plan.concurrency):
        sweep.until_saturated(plan.capacity_concurrency)
        return
    for load, put in [*((rate, sweep.open) for rate in plan.rates), *((n, sweep.closed) for n in plan.concurrency)]:
        if sweep.interrupted:
            return
        put(load)


def _wait_until_free(watch: ServerWatch) -> None:
    """The last sample says whether the server is left with anything."""
    deadline = time.monotonic() + FREE_SECONDS
    while (sample := watch.look()).active or sample.queued:
        if time.monotonic() > deadline:
            return
        time.sleep(0.5)
