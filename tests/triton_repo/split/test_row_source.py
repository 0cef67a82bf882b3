"""The cache and the fetches under way, in front of scripted encode servers."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qwen3vl.errors import InvalidRequest, Overloaded, Qwen3VLError
from tests.triton_repo.split.scripted_server import HIDDEN, SECONDS, ScriptedPool, ScriptedServer, rows_of, wait_until
from triton_repo.handoff.errors import Refused
from triton_repo.handoff.job import EncodeJob
from triton_repo.split.media import Media
from triton_repo.split.pairing import Pairing
from triton_repo.split.row_source import RowSource

# One row for each patch.
PAIRING = Pairing("checkpoint", "preparation", HIDDEN, 0, 1)
ROW_BYTES = 4 * HIDDEN


def media(number: int, patches: int = 4) -> Media:
    return Media(f"images[{number}]", "image", (1, 1, patches), bytes([number]) * 32, bytes([number]))


def expected(item: Media) -> np.ndarray:
    return rows_of(EncodeJob("", item.hash, item.data, item.kind, item.grid))


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer("host:1")


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> ScriptedPool:
    monkeypatch.setattr("triton_repo.split.members.CHECK_SECONDS", 0.02)
    return ScriptedPool(tmp_path, server)


@pytest.fixture
def source(scripted: ScriptedPool) -> Iterator[RowSource]:
    source = RowSource(scripted.pool, PAIRING, 10 * ROW_BYTES, SECONDS)
    wait_until(lambda: source.stats().pool.ready)
    yield source
    source.close()


def get(source: RowSource, item: Media):
    answers: queue.Queue = queue.Queue()
    source.get(item, "request", answers.put)
    return answers.get(timeout=SECONDS)


def test_image_that_comes_again_is_not_asked_for_again(source: RowSource, server: ScriptedServer) -> None:
    for _ in range(3):
        np.testing.assert_array_equal(get(source, media(1)), expected(media(1)))
    assert len(server.asked) == 1
    stats = source.stats()
    assert (stats.fetched, stats.joined, stats.cache.hits, stats.cache.misses, stats.cache.entries) == (1, 0, 2, 1, 1)


def test_job_says_what_the_media_are(source: RowSource, server: ScriptedServer) -> None:
    get(source, media(7, 3))
    assert server.asked == [EncodeJob("request", media(7).hash, media(7).data, "image", (1, 1, 3))]


def test_simultaneous_requests_share_one_fetch(source: RowSource, server: ScriptedServer) -> None:
    server.open.clear()
    answers: queue.Queue = queue.Queue()
    for i in range(20):
        source.get(media(1), "request", answers.put)
        source.get(media(2 + i % 2), "request", answers.put)
    assert source.stats().joined == 37
    server.open.set()
    got = [answers.get(timeout=SECONDS) for _ in range(40)]
    assert sorted(rows[0, 0] for rows in got) == [1] * 20 + [2] * 10 + [3] * 10
    assert sorted(job.media[0] for job in server.asked) == [1, 2, 3]


def test_one_encode_however_many_threads_ask(source: RowSource, server: ScriptedServer) -> None:
    with ThreadPoolExecutor(32) as pool:
        for rows in pool.map(lambda i: get(source, media(i % 2, 2)), range(400)):
            assert rows.shape == (2, HIDDEN)
    assert len(server.asked) == 2
    stats = source.stats()
    assert stats.joined + stats.cache.hits == 398


def test_failure_reaches_all_who_wait_and_the_next_tries_anew(source: RowSource, server: ScriptedServer) -> None:
    server.open.clear()
    server.errors = [Refused("no picture")]
    answers: queue.Queue = queue.Queue()
    for _ in range(3):
        source.get(media(1), "request", answers.put)
    server.open.set()
    for _ in range(3):
        assert isinstance(answers.get(timeout=SECONDS), InvalidRequest)
    np.testing.assert_array_equal(get(source, media(1)), expected(media(1)))
    assert len(server.asked) == 2
    assert source.stats().fetched == 1


def test_least_recently_used_rows_are_fetched_again(source: RowSource, server: ScriptedServer) -> None:
    for number in (1, 2, 1, 3, 1, 2):  # 4 rows each, room for 10
        np.testing.assert_array_equal(get(source, media(number)), expected(media(number)))
    assert [job.media[0] for job in server.asked] == [1, 2, 3, 2]
    assert source.stats().cache.bytes <= 10 * ROW_BYTES


def test_cached_rows_need_no_encode_server(source: RowSource, server: ScriptedServer) -> None:
    get(source, media(1))
    server.problem = "away"
    wait_until(lambda: not source.stats().pool.ready)
    np.testing.assert_array_equal(get(source, media(1)), expected(media(1)))


def test_rows_of_another_engine_are_not_taken_from_the_cache(source: RowSource, server: ScriptedServer) -> None:
    get(source, media(1))
    server.engine = "another engine"
    wait_until(lambda: source._pool.engine == "another engine")
    get(source, media(1))
    assert len(server.asked) == 2


@pytest.mark.parametrize("wrong", [np.zeros((3, HIDDEN), np.float32), np.zeros((4, HIDDEN + 1), np.float32),
                                   np.zeros((4, HIDDEN), np.float16)])
def test_rows_that_are_others_are_an_error(source: RowSource, server: ScriptedServer, monkeypatch,
                                           wrong: np.ndarray) -> None:
    monkeypatch.setattr(server, "fetch", lambda *args: wrong)
    error = get(source, media(1))
    assert isinstance(error, Qwen3VLError)
    assert not isinstance(error, InvalidRequest)
    assert "visual rows are" in str(error)
    assert source.stats().cache.entries == 0


def test_without_a_cache_each_image_is_fetched_each_time(scripted: ScriptedPool, server: ScriptedServer) -> None:
    source = RowSource(scripted.pool, PAIRING, 0, SECONDS)
    for _ in range(3):
        np.testing.assert_array_equal(get(source, media(1)), expected(media(1)))
    assert len(server.asked) == 3
    source.close()


def test_close_answers_everybody(source: RowSource, server: ScriptedServer) -> None:
    server.open.clear()
    answers: queue.Queue = queue.Queue()
    for number in range(1, 101):  # more than are fetched at a time
        source.get(media(number), "request", answers.put)
    source.close()
    for _ in range(100):
        assert isinstance(answers.get(timeout=SECONDS), Overloaded)
    source.get(media(200), "request", answers.put)
    assert isinstance(answers.get(timeout=SECONDS), Overloaded)
