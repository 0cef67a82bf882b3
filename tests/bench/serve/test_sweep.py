"""How many requests the loads of a sweep have."""

import pytest

from bench.serve.load import LoadRun
from bench.serve.sweep import LEAST_REQUESTS, Sweep


class Client:
    """Counts what it is to send."""

    def open_loop(self, arrivals, on_record) -> LoadRun:
        self.arrivals = list(arrivals)
        return LoadRun(ended=1.0)


class Watch:
    def look(self) -> None: ...

    def between(self, began: float, ended: float) -> list:
        return []


@pytest.mark.parametrize(("seconds", "rate", "expected"), [
    (None, 4.0, 100), (10.0, 4.0, 40), (10.0, 0.5, LEAST_REQUESTS), (30.0, 12.0, 360)])
def test_an_offered_load_has_as_many_requests_as_come_in_its_time(seconds: float | None, rate: float, expected: int):
    client, shown = Client(), []
    Sweep(client, 100, Watch(), 0, shown.append, seconds).open(rate)
    assert len(client.arrivals) == expected and [summary.offered for summary in shown] == [rate]
