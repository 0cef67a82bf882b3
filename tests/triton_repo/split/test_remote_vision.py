"""A request's files put together: in order, or the error that a whole server would have given."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.visual_rows import join_rows
from qwen3vl.errors import InvalidRequest, Overloaded
from tests.triton_repo.split.scripted_server import HIDDEN, SECONDS, ScriptedPool, ScriptedServer, wait_until
from tests.triton_repo.split.test_row_source import PAIRING, expected, media
from triton_repo.handoff.errors import Refused
from triton_repo.split.remote_vision import RemoteVision
from triton_repo.split.row_source import RowSource

QUEUE = 3


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer("host:1")


@pytest.fixture
def vision(tmp_path: Path, server: ScriptedServer) -> Iterator[RemoteVision]:
    source = RowSource(ScriptedPool(tmp_path, server).pool, PAIRING, 10**6, SECONDS)
    wait_until(lambda: source.stats().pool.ready)
    vision = RemoteVision(source, HIDDEN, QUEUE)
    yield vision
    vision.close()


def get(vision: RemoteVision, *items):
    answers: queue.Queue = queue.Queue()
    vision.submit(items, "request", answers.put)
    return answers.get(timeout=SECONDS)


def test_request_without_images_is_answered_at_once_and_asks_nobody(vision: RemoteVision, server) -> None:
    answers = []
    vision.submit([], "request", answers.append)
    assert (answers[0].shape, answers[0].dtype) == ((0, HIDDEN), np.float32)
    assert server.asked == []


def test_rows_are_in_order_of_the_files_and_twice_for_the_same_file(vision: RemoteVision, server) -> None:
    items = [media(3, 5), media(1, 2), media(3, 5), media(2, 1)]
    np.testing.assert_array_equal(get(vision, *items), np.concatenate([expected(item) for item in items]))
    assert len(server.asked) == 3


def test_order_does_not_depend_on_who_is_first(vision: RemoteVision, server: ScriptedServer) -> None:
    items = [media(1, 3), media(2, 3), media(3, 3)]
    server.open.clear()
    answers: queue.Queue = queue.Queue()
    vision.submit(items[2:], "other", answers.put)
    vision.submit(items, "request", answers.put)
    server.open.set()
    got = sorted((answers.get(timeout=SECONDS) for _ in range(2)), key=len)
    np.testing.assert_array_equal(got[1], np.concatenate([expected(item) for item in items]))


def test_refused_file_is_named_as_in_the_request(vision: RemoteVision, server: ScriptedServer) -> None:
    server.errors = [Refused("the image is broken")]
    error = get(vision, media(5))
    assert isinstance(error, InvalidRequest)
    assert str(error) == "images[5]: the image is broken"


def test_first_error_in_order_counts(vision: RemoteVision, server: ScriptedServer, monkeypatch) -> None:
    def fetch(engine, job, deadline, cancelled):
        raise Refused(f"file {job.media[0]} is broken")

    monkeypatch.setattr(server, "fetch", fetch)
    assert str(get(vision, media(2), media(1))) == "images[2]: file 2 is broken"


def test_full_queue_is_refused_but_not_for_text(vision: RemoteVision, server: ScriptedServer) -> None:
    server.open.clear()
    answers: queue.Queue = queue.Queue()
    for number in range(1, QUEUE + 1):
        vision.submit([media(number)], "request", answers.put)
    with pytest.raises(Overloaded, match=rf"{QUEUE} requests with images are waiting, as many as the limit \(queue\)"):
        vision.submit([media(9)], "request", answers.put)
    vision.submit([], "text", answers.put)
    server.open.set()
    for _ in range(QUEUE + 1):
        assert isinstance(answers.get(timeout=SECONDS), np.ndarray)
    assert isinstance(get(vision, media(9)), np.ndarray)


def test_answer_that_cannot_be_sent_does_not_stop_the_others(vision: RemoteVision) -> None:
    def broken(rows):
        raise RuntimeError("the client is gone")

    vision.submit([media(1)], "request", broken)
    assert isinstance(get(vision, media(2)), np.ndarray)


def test_close_answers_everybody(tmp_path: Path, server: ScriptedServer) -> None:
    vision = RemoteVision(RowSource(ScriptedPool(tmp_path, server).pool, PAIRING, 0, SECONDS), HIDDEN, QUEUE)
    server.open.clear()
    answers: queue.Queue = queue.Queue()
    vision.submit([media(1), media(2)], "request", answers.put)
    vision.close()
    assert isinstance(answers.get_nowait(), Overloaded)


def test_request_whose_rows_cannot_be_put_together_gets_the_error(tmp_path: Path, server) -> None:
    source = RowSource(ScriptedPool(tmp_path, server).pool, PAIRING, 10**6, SECONDS)
    wait_until(lambda: source.stats().pool.ready)
    errors = [RuntimeError("the GPU is gone")]

    def join(parts, hidden):
        if errors:
            raise errors.pop()
        return join_rows(parts, hidden)

    vision = RemoteVision(source, HIDDEN, QUEUE, join)
    try:
        assert str(get(vision, media(1))) == "the GPU is gone"
        np.testing.assert_array_equal(get(vision, media(1)), expected(media(1)))
    finally:
        vision.close()
