"""Who is asked for the next image, and what happens when servers fail, come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen3vl.errors import InvalidRequest, Overloaded
from tests.triton_repo.split.scripted_server import SECONDS, ScriptedPool, ScriptedServer, make_job, rows_of, wait_until
from triton_repo.handoff.errors import Busy, EncodeFailed, Refused, TypeMismatch, Unreachable
from triton_repo.split.attempts import FAILURES

MakePool = Callable[..., ScriptedPool]


@pytest.fixture
def make_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePool]:
    monkeypatch.setattr("triton_repo.split.members.CHECK_SECONDS", 0.02)
    monkeypatch.setattr("triton_repo.split.pool.CHECK_SECONDS", 0.02)
    pools = []

    def make(*servers: ScriptedServer) -> ScriptedPool:
        pools.append(ScriptedPool(tmp_path, *servers))
        # The second check of a server comes after what the first one said was noted.
        wait_until(lambda: all(server.checks > 1 for server in servers))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def servers(count: int) -> list[ScriptedServer]:
    return [ScriptedServer(f"host{i}:1") for i in range(count)]


def test_rows_come_from_a_server(make_pool: MakePool) -> None:
    pool = make_pool(*servers(1))
    engine, rows = pool.fetch(make_job(3))
    assert engine == "engine"
    np.testing.assert_array_equal(rows, rows_of(make_job(3)))


def test_next_image_goes_where_the_fewest_rows_are_outstanding(make_pool: MakePool) -> None:
    a, b = servers(2)
    pool = make_pool(a, b)
    wait_until(lambda: pool.pool.stats().ready == 2)
    for server in (a, b):
        server.open.clear()
    futures = []
    # 100 to one; then four of 30 to the other, after which the first has fewer.
    for number, patches in enumerate([100, 30, 30, 30, 30, 30], 1):
        futures.append(pool.start(make_job(number, patches)))
        wait_until(lambda number=number: len(a.asked) + len(b.asked) == number)
    heavy, light = (a, b) if a.asked[0].grid == (1, 1, 100) else (b, a)
    assert [[job.grid[2] for job in server.asked] for server in (heavy, light)] == [[100, 30], [30] * 4]
    assert pool.pool.stats().outstanding_rows == 250
    for server in (a, b):
        server.open.set()
    for number, future in enumerate(futures, 1):
        assert (future.result()[1] == number).all()
    assert pool.pool.stats().outstanding_rows == 0


def test_rows_of_other_language_servers_count(make_pool: MakePool) -> None:
    a, b = servers(2)
    a.load = 1000
    pool = make_pool(a, b)
    wait_until(lambda: pool.pool.stats().ready == 2 and a.checks > 2)
    for number in range(1, 6):
        pool.fetch(make_job(number))
    assert (len(a.asked), len(b.asked)) == (0, 5)


def test_idle_servers_take_turns(make_pool: MakePool) -> None:
    a, b, c = servers(3)
    pool = make_pool(a, b, c)
    wait_until(lambda: pool.pool.stats().ready == 3)
    for number in range(1, 10):
        pool.fetch(make_job(number))
    assert [len(server.asked) for server in (a, b, c)] == [3, 3, 3]


@pytest.mark.parametrize("error", [Unreachable("gone"), EncodeFailed("broke"), Busy("full"), TypeMismatch("other")])
def test_another_server_takes_over(make_pool: MakePool, error: Exception) -> None:
    a, b = servers(2)
    pool = make_pool(a, b)
    wait_until(lambda: pool.pool.stats().ready == 2)
    a.errors, b.errors = [error], []
    for number in (1, 2):
        np.testing.assert_array_equal(pool.fetch(make_job(number))[1], rows_of(make_job(number)))
    assert len(a.asked) >= 1
    assert a.errors == []
    assert pool.pool.stats().retries == 1


def test_image_at_a_server_that_hangs_goes_to_another(make_pool: MakePool) -> None:
    a, b = servers(2)
    pool = make_pool(a, b)
    for server in (a, b):
        server.open.clear()
    future = pool.start(make_job(1))
    wait_until(lambda: a.asked or b.asked)
    hanging, other = (a, b) if a.asked else (b, a)
    other.open.set()
    hanging.problem = "deadline exceeded"
    assert (future.result()[1] == 1).all()
    assert len(other.asked) == 1


def test_image_stays_at_a_server_that_hangs_while_there_is_no_other(make_pool: MakePool) -> None:
    a, = servers(1)
    pool = make_pool(a)
    a.open.clear()
    future = pool.start(make_job(1))
    wait_until(lambda: a.asked)
    a.problem, checks = "deadline exceeded", a.checks
    wait_until(lambda: a.checks > checks + 2)
    a.open.set()
    assert (future.result()[1] == 1).all()
    assert len(a.asked) == 1


def test_failed_server_is_used_again_once_it_says_that_it_is_well(make_pool: MakePool) -> None:
    a, = servers(1)
    pool = make_pool(a)
    a.errors = [Unreachable("gone")]
    a.problem = "starting"
    future = pool.start(make_job(1))
    wait_until(lambda: a.errors == [] and pool.pool.stats().ready == 0)
    assert not future.done()
    assert len(a.asked) == 1
    a.problem = ""
    assert (future.result()[1] == 1).all()
    assert len(a.asked) == 2


def test_what_a_server_said_before_it_failed_counts_for_nothing(make_pool: MakePool, monkeypatch) -> None:
    a, = servers(1)
    pool = make_pool(a)
    asking, answer, check = threading.Event(), threading.Semaphore(0), a.check

    def slow_check():
        state = check()
        asking.set()
        assert answer.acquire(timeout=SECONDS)
        return state

    monkeypatch.setattr(a, "check", slow_check)
    assert asking.wait(SECONDS)
    a.errors = [Unreachable("gone")]
    future = pool.start(make_job(1))
    wait_until(lambda: a.errors == [] and pool.pool.stats().ready == 0)
    # It said that it is well before it failed; what it says now is still to come.
    asking.clear()
    answer.release()
    assert asking.wait(SECONDS)
    assert pool.pool.stats().ready == 0
    answer.release(1000)
    assert (future.result()[1] == 1).all()


def test_busy_servers_are_asked_again(make_pool: MakePool) -> None:
    a, b = servers(2)
    pool = make_pool(a, b)
    a.errors, b.errors = [Busy("full")] * 7, [Busy("full")] * 7
    assert (pool.fetch(make_job(1))[1] == 1).all()
    assert pool.pool.stats().ready == 2


def test_refused_file_is_not_tried_elsewhere(make_pool: MakePool) -> None:
    a, b = servers(2)
    pool = make_pool(a, b)
    a.errors, b.errors = [Refused("no picture")], [Refused("no picture")]
    with pytest.raises(InvalidRequest, match=r"^no picture$"):
        pool.fetch(make_job(1))
    assert len(a.asked) + len(b.asked) == 1
    wait_until(lambda: pool.pool.stats().ready == 2)


def test_image_that_breaks_every_server_is_given_up(make_pool: MakePool) -> None:
    a, b = servers(2)
    pool = make_pool(a, b)
    a.errors, b.errors = [EncodeFailed("broke")] * 50, [EncodeFailed("broke")] * 50
    with pytest.raises(EncodeFailed, match=f"tried {FAILURES} times and failed: .*host.*broke"):
        pool.fetch(make_job(1))
    assert len(a.asked) + len(b.asked) == FAILURES


def test_nobody_listed_is_told_at_once(make_pool: MakePool) -> None:
    with pytest.raises(Overloaded, match=r"no encode server is listed in encode_servers\.txt"):
        make_pool().fetch(make_job(1))


def test_nobody_reachable_is_told_at_the_deadline_with_each_reason(make_pool: MakePool) -> None:
    a, b = servers(2)
    a.problem, b.problem = "connection refused", "it is composed for other rows: hidden is 3, here 4"
    pool = make_pool(a, b)
    with pytest.raises(Overloaded) as error:
        pool.fetch(make_job(1), seconds=0.1)
    assert "host0:1: connection refused; host1:1: it is composed for other rows" in str(error.value)
    assert a.asked == b.asked == []


def test_server_that_does_not_answer_in_time_is_not_thought_dead(make_pool: MakePool) -> None:
    a, = servers(1)
    pool = make_pool(a)
    a.open.clear()
    with pytest.raises(Overloaded, match="host0:1: not in time"):
        pool.fetch(make_job(1), seconds=0.1)
    assert pool.pool.stats().ready == 1


def test_servers_come_and_go_with_the_list(make_pool: MakePool) -> None:
    a, b = servers(2)
    pool = make_pool(a, b)
    pool.list(a.url)
    wait_until(lambda: pool.pool.stats().listed == 1)
    assert b.closed
    for number in (1, 2, 3):
        pool.fetch(make_job(number))
    assert b.asked == []
    b.closed = False
    pool.list(b.url)
    wait_until(lambda: a.closed and pool.pool.stats().ready == 1)
    pool.fetch(make_job(4))
    assert len(b.asked) == 1


def test_image_at_a_server_that_leaves_the_list_goes_to_another(make_pool: MakePool) -> None:
    a, b = servers(2)
    pool = make_pool(a)
    a.open.clear()
    pool.servers[b.url] = b
    future = pool.start(make_job(1))
    wait_until(lambda: a.asked)
    pool.list(b.url)
    assert (future.result()[1] == 1).all()
    assert len(b.asked) == 1


def test_broken_list_changes_nothing(make_pool: MakePool) -> None:
    a, = servers(1)
    pool = make_pool(a)
    pool.path.write_text("what is this")
    checks = a.checks
    wait_until(lambda: a.checks > checks + 5)
    assert (pool.fetch(make_job(1))[1] == 1).all()
    assert not a.closed


def test_one_engine_at_a_time(make_pool: MakePool) -> None:
    old, new = ScriptedServer("old:1", "old engine"), ScriptedServer("new:1", "new engine")
    new.problem = "starting"
    pool = make_pool(new, old)
    assert pool.pool.engine == "old engine"
    new.problem = ""
    checks = new.checks
    wait_until(lambda: new.checks > checks + 1)
    assert pool.pool.stats().ready == 1
    assert {pool.fetch(make_job(number))[0] for number in range(1, 5)} == {"old engine"}
    # Away, but nobody else is there: the cache's rows stay in use.
    new.problem, checks = "gone", new.checks
    wait_until(lambda: new.checks > checks + 1)
    old.problem = "gone"
    wait_until(lambda: pool.pool.stats().ready == 0)
    assert pool.pool.engine == "old engine"
    new.problem = ""
    wait_until(lambda: pool.pool.engine == "new engine")
    assert pool.fetch(make_job(5))[0] == "new engine"


def test_close_ends_what_waits_and_what_is_fetched(make_pool: MakePool) -> None:
    a, = servers(1)
    pool = make_pool(a)
    a.open.clear()
    fetching = pool.start(make_job(1))
    wait_until(lambda: a.asked)
    a.problem = "away"
    wait_until(lambda: pool.pool.stats().ready == 0)
    waiting = pool.start(make_job(2))
    pool.pool.close()
    for future in (fetching, waiting):
        with pytest.raises(Overloaded, match="the server is stopping"):
            future.result(timeout=30)
    assert a.closed


def test_storm_of_failures_gives_no_wrong_rows_and_leaves_nothing(make_pool: MakePool) -> None:
    all_servers = servers(4)
    pool = make_pool(*all_servers)
    random = np.random.default_rng(1)
    kinds = [Unreachable("gone"), Busy("full"), EncodeFailed("broke")]
    for server in all_servers:
        server.errors = [kinds[i] for i in random.integers(0, 3, 40)]
    futures = [pool.start(make_job(number, 1 + number % 7)) for number in range(200)]
    failed = 0
    for number, future in enumerate(futures):
        try:
            np.testing.assert_array_equal(future.result(timeout=30)[1], rows_of(make_job(number, 1 + number % 7)))
        except EncodeFailed:
            failed += 1
    assert failed < 30
    assert pool.pool.stats().outstanding_rows == 0
