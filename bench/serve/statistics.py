"""From records of requests to the figures of a load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.serve.load import OVERLOADED, LoadRun
from bench.serve.record import Record
from bench.serve.server_watch import Sample

# Where requests come faster than they are served, those under way become more and more: by one for every ten that come,
# if nine are served.
DRIFT = 0.1


@dataclass(frozen=True)
class Spread:
    """Median, 90th and 99th percentile (linear interpolation), largest value and number of values."""

    p50: float
    p90: float
    p99: float
    largest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None if there are no values."""
        if not len(values):
            return None
        p50, p90, p99, largest = np.percentile(values, [50, 90, 99, 100]).tolist()
        return cls(p50, p90, p99, largest, len(values))


@dataclass(frozen=True)
class LoadSummary:
    """One load. Times are in seconds, rates per second.

    Attributes:
        offered: requests that came per second; None where each waited for another to end.
        concurrency: requests under way at once; None where they came at a rate.
        answered, hung_up: requests read to their end, and those that the client ended.
        errors: number of requests for each kind of error.
        messages: one message for each kind.
        seconds: from the first request to the last end.
        requests_per_second, prompt_tokens_per_second, tokens_per_second: of answered requests; generated tokens.
        first_token: from when a request was due to its first piece of text.
        gap: from one token to the next, over all requests.
        per_token: of each answer, from its first to its last piece, for each token after the first piece.
        total: from when a request was due to its last piece.
        late: how long after it was due a request was sent: above some milliseconds the client is the limit.
        drift: by how much the requests under way became more for each that came; None where each waited for another.
        saturated: whether the server did not keep up: it refused requests, or drifted by more than `DRIFT`.
        queued, active: most requests seen waiting for a slot, and mean number of busy slots.
        memory_bytes: most that the server was seen to have.
    """

    offered: float | None
    concurrency: int | None
    answered: int
    hung_up: int
    errors: dict[str, int]
    messages: dict[str, str]
    seconds: float
    requests_per_second: float
    prompt_tokens_per_second: float
    tokens_per_second: float
    first_token: Spread | None
    gap: Spread | None
    per_token: Spread | None
    total: Spread | None
    late: Spread | None
    drift: float | None
    saturated: bool
    queued: float | None
    active: float | None
    memory_bytes: int | None
    interrupted: bool


def summarise(run: LoadRun, samples: Sequence[Sample], offered: float | None, concurrency: int | None) -> LoadSummary:
    """The figures of a load.

    Args:
        samples: of the server, taken during it.
        offered: the rate that was asked for.
    """
    answered = [record for record in run.records if record.answered]
    with_text = [record for record in run.records if record.pieces]
    failed = [record for record in run.records if record.error]
    errors = Counter(record.error for record in failed)
    seconds = max([run.began, *(record.pieces[-1][0] for record in with_text)]) - run.began
    drift = backlog_drift(run.records) if offered is not None else None

    def rate(amount: int) -> float:
        return amount / seconds if seconds else 0.0

    return LoadSummary(
        offered=offered, concurrency=concurrency, interrupted=run.interrupted,
        answered=len(answered), hung_up=sum(record.hung_up for record in run.records),
        errors=dict(errors), messages={record.error: record.message for record in failed}, seconds=seconds,
        requests_per_second=rate(len(answered)),
        prompt_tokens_per_second=rate(sum(record.prompt_tokens for record in answered)),
        tokens_per_second=rate(sum(record.tokens for record in answered)),
        first_token=Spread.of([record.first for record in with_text]),
        gap=Spread.of([gap for record in with_text for gap in record.gaps]),
        per_token=Spread.of([time for record in answered if (time := _per_token(record)) is not None]),
        total=Spread.of([record.total for record in answered]),
        late=Spread.of([record.sent - record.due for record in run.records]),
        drift=drift, saturated=OVERLOADED in errors or (drift or 0.0) > DRIFT,
        queued=max((sample.queued for sample in samples if sample.queued is not None), default=None),
        active=_mean([sample.active for sample in samples if sample.active is not None]),
        memory_bytes=max((sample.memory_bytes for sample in samples if sample.memory_bytes), default=None))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _per_token(record: Record) -> float | None:
    (began, before), (ended, tokens) = record.pieces[0], record.pieces[-1]
    return (ended - began) / (tokens - before) if tokens > before else None


def backlog_drift(records: Sequence[Record]) -> float | None:
    """How many more requests each one finds under way when it comes than the one before.

    The slope of the line through those numbers by least squares, which is 0 for a server that keeps up, and 1 for one
    that serves nobody. None for fewer than three requests.
    """
    if len(records) < 3:
        return None
    due = np.sort([record.due for record in records])
    ended = np.sort([record.ended for record in records])
    under_way = np.arange(len(due)) - np.searchsorted(ended, due, side="right")
    return float(np.polyfit(np.arange(len(due)), under_way, 1)[0])
