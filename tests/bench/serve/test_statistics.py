"""Figures of made-up records whose right values are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.serve.load import LoadRun
from bench.serve.memory import memory_trend
from bench.serve.record import Record
from bench.serve.server_watch import Sample
from bench.serve.statistics import Spread, backlog_drift, summarise
from bench.serve.sweep import sweep_rates
from tests.bench.serve.records import answered

MIB = 2**20


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=50))
def test_percentiles_are_between_the_neighbours_they_lie_between(values: list[float]):
    spread, ordered = Spread.of(values), sorted(values)
    for share, value in ((0.5, spread.p50), (0.9, spread.p90), (0.99, spread.p99)):
        place = share * (len(values) - 1)
        low, high = ordered[int(np.floor(place))], ordered[int(np.ceil(place))]
        assert value == pytest.approx(low + (high - low) * (place - np.floor(place)), abs=1e-9)
    assert (spread.largest, spread.count) == (max(values), len(values))


def test_of_nothing_there_is_no_spread():
    assert Spread.of([]) is None


def test_a_load_is_counted_right():
    records = [answered(0, 100.0, 0.5, 0.1, 11, prompt=30), answered(1, 101.0, 0.7, 0.2, 6, prompt=50),
               Record(2, 102.0, 102.5, 102.6, error="overloaded", message="server busy: 3 are waiting"),
               Record(3, 103.0, 103.0, 103.6, [(103.4, 1), (103.6, 3)], "xy", 20, hung_up=True)]
    samples = [Sample(100, 5 * MIB, MIB, 2, 1), Sample(101, 9 * MIB, MIB, 7, 4), Sample(102, *[None] * 4)]
    load = summarise(LoadRun(records, began=100.0, ended=104.0), samples, offered=1.0, concurrency=None)
    assert (load.answered, load.hung_up, load.errors) == (2, 1, {"overloaded": 1})
    assert load.messages == {"overloaded": "server busy: 3 are waiting"}
    assert load.seconds == pytest.approx(3.6)
    assert load.requests_per_second == pytest.approx(2 / 3.6)
    assert load.tokens_per_second == pytest.approx(17 / 3.6)
    assert load.prompt_tokens_per_second == pytest.approx(80 / 3.6)
    assert (load.first_token.p50, load.first_token.count) == (pytest.approx(0.5), 3)
    assert (load.gap.p50, load.gap.largest, load.gap.count) == (pytest.approx(0.1), pytest.approx(0.2), 17)
    assert (load.per_token.p50, load.per_token.count) == (pytest.approx(0.15), 2)
    assert load.total.largest == pytest.approx(1.7)
    assert load.late.largest == pytest.approx(0.5)
    assert (load.queued, load.active, load.memory_bytes) == (7, 2.5, 9 * MIB)
    assert load.saturated


def test_tokens_that_come_together_share_the_time_before_them():
    record = Record(0, 0.0, 0.0, 1.6, [(1.0, 2), (1.3, 5), (1.5, 5), (1.6, 6)])
    assert record.gaps == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert (record.first, record.total, record.tokens) == (1.0, 1.6, 6)


def test_a_load_without_any_answer_has_no_figures_and_breaks_nothing():
    failed = [Record(i, float(i), float(i), i + 0.1, error="unavailable", message="gone") for i in range(5)]
    load = summarise(LoadRun(failed, 0.0, 5.0), [], offered=1.0, concurrency=None)
    assert (load.answered, load.first_token, load.requests_per_second, load.queued) == (0, None, 0.0, None)
    assert not load.saturated


@pytest.mark.parametrize("shortest_first", [False, True])
def test_a_server_that_serves_less_than_comes_is_found_by_what_piles_up(shortest_first: bool):
    def load(served_per_second: float):
        due = np.arange(200) / 2  # two come each second
        free, waiting, records = 0.0, list(range(200)), []
        while waiting:
            come = [i for i in waiting if due[i] <= max(free, due[waiting[0]])]
            i = min(come, key=lambda i: i * 7 % 200) if shortest_first else come[0]
            free = max(free, due[i]) + 1 / served_per_second
            waiting.remove(i)
            records.append(answered(i, due[i], free - due[i], 0.0, 2))
        return summarise(LoadRun(records, 0.0, 200.0), [], offered=2.0, concurrency=None)

    assert load(1.0).drift == pytest.approx(1 / 2, abs=0.02)
    assert load(1.5).drift == pytest.approx(1 / 4, abs=0.02)
    assert [load(rate).saturated for rate in (1.0, 1.5, 1.9, 2.0, 3.0)] == [True, True, False, False, False]


def test_drift_needs_some_requests():
    assert backlog_drift([answered(0, 0, 1, 1, 1)] * 2) is None
    assert backlog_drift([answered(0, i, 1e9, 1, 1) for i in range(3)]) == pytest.approx(1)


def test_loads_of_many_at_a_time_do_not_saturate_by_waiting():
    records = [answered(i, float(i), float(i), 0.1, 2) for i in range(50)]
    assert not summarise(LoadRun(records, 0.0, 60.0), [], offered=None, concurrency=8).saturated


def test_a_sweep_goes_from_little_to_beyond_what_was_found_possible():
    rates = list(sweep_rates(10.0))
    assert rates == sorted(rates) and rates[0] == pytest.approx(2.0)
    assert 10.0 in rates and rates[-1] > 40
    assert list(sweep_rates(0.0)) == []


def test_memory_that_grows_is_told_from_memory_that_settles():
    def trend(size_at):
        return memory_trend([Sample(float(t), 900 * MIB, int(size_at(t)), None, None) for t in range(0, 7200, 10)])

    settling = trend(lambda t: 500 * MIB - 200 * MIB * np.exp(-t / 200))
    assert settling.last_bytes - settling.first_bytes < MIB
    growing = trend(lambda t: 500 * MIB + 10 * MIB * t / 3600)
    assert growing.per_hour == pytest.approx(10 * MIB, rel=0.01)
    assert growing.last_bytes - growing.first_bytes == pytest.approx(10 * MIB, rel=0.05)
    assert growing.largest_bytes == pytest.approx(520 * MIB, rel=0.01)
    assert memory_trend([Sample(float(t), MIB, MIB, None, None) for t in range(5)]) is None
    assert memory_trend([Sample(float(t), None, None, 1, 1) for t in range(100)]) is None
