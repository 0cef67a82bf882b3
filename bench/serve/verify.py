"""Are answers under load the same as the same requests' answers alone?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.serve.load import LoadClient, LoadRun
from bench.serve.record import Record
from bench.serve.sweep import progress


@dataclass(frozen=True)
class Difference:
    """A request whose answer under load is another."""

    index: int
    alone: str
    under_load: str


@dataclass(frozen=True)
class Verification:
    """Attributes:
        compared: answers under load.
        interrupted: whether Ctrl-C kept it from comparing all of them.
    """

    compared: int
    differences: list[Difference]
    interrupted: bool


def verify(client: LoadClient, runs: Iterable[LoadRun], count: int) -> Verification:
    """Ask the first `count` requests again, one at a time, and compare.

    Answers that were not read to their end, here or under load, are left out.
    """
    with progress(count, "alone") as on_record:
        again = client.closed_loop(count, 1, on_record)
    alone = {record.index: record for record in again.records}
    pairs = [(alone[record.index], record) for run in runs for record in run.records
             if record.answered and record.index in alone and alone[record.index].answered]
    return Verification(len(pairs), [_difference(one, other) for one, other in pairs if _differ(one, other)],
                        again.interrupted)


def _differ(one: Record, other: Record) -> bool:
    return (one.text, one.finish_reason, one.tokens) != (other.text, other.finish_reason, other.tokens)


def _difference(alone: Record, under_load: Record) -> Difference:
    return Difference(alone.index, alone.text, under_load.text)
