"""Both ends of the hand-off, with a real Triton between them and nothing going wrong but what the sender says."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qwen3vl.errors import ArtifactError, InvalidRequest, Overloaded
from tests.support.encode_jobs import DESCRIPTION, make_job, rows_of
from tests.triton_repo.handoff.conftest import SECONDS, SETTINGS, TRANSPORTS, soon, wait_until
from triton_repo.handoff.errors import (
    Busy,
    Cancelled,
    EncodeFailed,
    HandoffError,
    Refused,
    TimedOut,
    TransportFailed,
    TypeMismatch,
    Unreachable,
)
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.settings import ReceiverSettings
from triton_repo.handoff.transports.grpc_payload import PayloadBuffers
from triton_repo.handoff.transports.shared_memory import SharedBuffers


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("grid", [(1, 2, 2), (1, 8, 8), (2, 8, 8), (1, 46, 44)])
def test_rows_arrive_as_they_were_made(server, connect, transport: str, grid: tuple[int, int, int]) -> None:
    job = make_job(3, grid)
    rows = connect(server.url, transport).fetch(job, soon())
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, rows_of(job))


def test_transport_is_found_shared_memory_where_it_reaches(server, connect, monkeypatch) -> None:
    job = make_job(4)
    for found in (SharedBuffers, PayloadBuffers):
        connection = connect(server.url, "auto")
        np.testing.assert_array_equal(connection.fetch(job, soon()), rows_of(job))
        assert isinstance(connection._stream.buffers, found)
        monkeypatch.setattr(SharedBuffers, "describe", lambda buffers: {"name": "of another machine", "slots": 1})
    with pytest.raises(TransportFailed, match="one machine"):
        connect(server.url, "shared_memory").fetch(job, soon())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_many_at_once_over_one_connection(server, connect, transport: str) -> None:
    connection = connect(server.url, transport)
    jobs = [make_job(seed, (1, 8, 8 + 2 * (seed % 7)), seconds=0.01 * (seed % 3)) for seed in range(60)]
    with ThreadPoolExecutor(30) as pool:
        for job, rows in zip(jobs, pool.map(lambda job: connection.fetch(job, soon()), jobs), strict=True):
            np.testing.assert_array_equal(rows, rows_of(job))
    wait_until(lambda: connection.health().transfers == 0)


@pytest.mark.parametrize("dtype", ["FP16", "BF16"])
def test_other_dtypes_travel_as_they_are(start, connect, dtype: str) -> None:
    description = RowsDescription(hidden=48, levels=2, merge=2, dtype=dtype, engine="other")
    connection = connect(start(description=description).url, "grpc", description=description)
    job = make_job(5, (1, 10, 6))
    rows = connection.fetch(job, soon())
    assert rows.dtype == description.numpy_dtype
    np.testing.assert_array_equal(rows, rows_of(job, description))


def test_one_slot_that_takes_one_token_is_enough(server, connect) -> None:
    settings = ReceiverSettings(block_bytes=DESCRIPTION.token_bytes, buffer_bytes=DESCRIPTION.token_bytes)
    job = make_job(1, (1, 6, 10))
    np.testing.assert_array_equal(connect(server.url, "shared_memory", settings).fetch(job, soon()), rows_of(job))


def test_slot_smaller_than_a_token_is_refused(connect) -> None:
    with pytest.raises(ArtifactError, match="raise block_bytes"):
        connect("127.0.0.1:1", settings=ReceiverSettings(block_bytes=DESCRIPTION.token_bytes - 1))


@pytest.mark.parametrize("fail, error, protocol_error, another_may_help, text", [
    ("invalid", Refused, InvalidRequest, False, "the picture is no picture"),
    ("busy", Busy, Overloaded, True, "too much to do"),
    ("broken", EncodeFailed, HandoffError, True, "the engine broke"),
])
def test_the_encoders_errors_arrive(server, connect, fail, error, protocol_error, another_may_help, text) -> None:
    connection = connect(server.url)
    with pytest.raises(error, match=text) as raised:
        connection.fetch(make_job(1, fail=fail), soon())
    assert isinstance(raised.value, protocol_error)
    assert raised.value.another_may_help is another_may_help
    wait_until(lambda: connection.health().transfers == 0)


def test_deadline_and_what_was_being_waited_for(server, connect) -> None:
    connection = connect(server.url)
    with pytest.raises(TimedOut, match="the transfer was waiting"):
        connection.fetch(make_job(1, seconds=3), time.monotonic() + 0.5)
    wait_until(lambda: connection.health().transfers == 0)


def test_cancelled_by_the_caller(server, connect) -> None:
    connection, unwanted = connect(server.url), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(connection.fetch, make_job(1, seconds=5), soon(), unwanted.is_set)
        wait_until(lambda: connection.health().transfers == 1)
        unwanted.set()
        with pytest.raises(Cancelled):
            fetching.result(timeout=SECONDS)
    wait_until(lambda: connection.health().transfers == 0)


def test_close_ends_what_is_being_fetched(server, connect) -> None:
    connection = connect(server.url)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(connection.fetch, make_job(1, seconds=5), soon())
        wait_until(lambda: connection.health().transfers == 1)
        connection.close()
        with pytest.raises(Cancelled, match="closed"):
            fetching.result(timeout=SECONDS)
    with pytest.raises(Cancelled, match="closed"):
        connection.fetch(make_job(1), soon())


def test_health_tells_what_is_to_be_done_for_others(server, connect) -> None:
    connection, other = connect(server.url), connect(server.url)
    job = make_job(1, seconds=2)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(connection.fetch, job, soon())
        wait_until(lambda: other.health().rows_for_others == len(rows_of(job)))
        health, own = other.health(), connection.health()
        assert health.transfers == own.transfers == 1 and health.instance == own.instance
        assert own.rows_for_others == 0
        assert 0 < health.round_trip < SECONDS
        fetching.result(timeout=SECONDS)
    wait_until(lambda: other.health().rows_for_others == 0)


def test_other_rows_are_a_type_mismatch(server, connect) -> None:
    for change in ({"hidden": 64}, {"dtype": "FP16"}, {"levels": 2}, {"engine": "another"}):
        description = RowsDescription(**{**vars(DESCRIPTION), **change})
        with pytest.raises(TypeMismatch, match=next(iter(change))) as raised:
            connect(server.url, description=description).fetch(make_job(1), soon())
        assert raised.value.another_may_help


def test_grid_without_tokens_is_refused(connect) -> None:
    with pytest.raises(TypeMismatch, match="no visual tokens"):
        connect("127.0.0.1:1").fetch(make_job(1, (1, 1, 2)), soon())


def test_nobody_there(connect) -> None:
    connection = connect("127.0.0.1:1")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        connection.health()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        connection.fetch(make_job(1), soon())


def test_server_without_the_model(live_server, connect) -> None:
    with pytest.raises(Unreachable, match="encode"):
        connect(live_server.grpc_url).fetch(make_job(1), soon())


def test_unknown_transport(server, connect) -> None:
    with pytest.raises((TransportFailed, Unreachable), match="pigeon"):
        connect(server.url, "pigeon").fetch(make_job(1), soon())


def test_a_slow_receiver_holds_up_nobody_else(server, connect) -> None:
    """A connection that grants nothing keeps the sender from nothing but its own rows."""
    slow, quick = connect(server.url), connect(server.url)
    slow.health()
    held = [slow._stream.slots._free.pop() for _ in range(slow._stream.buffers.slots)]
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(slow.fetch, make_job(seed, (1, 32, 32)), soon()) for seed in range(4)]
        for seed in range(10, 20):
            np.testing.assert_array_equal(quick.fetch(make_job(seed), soon()), rows_of(make_job(seed)))
        assert not any(future.done() for future in waiting)
        wait_until(lambda: slow.health().transfers == 4)
        slow._stream.slots.give_back(held)
        for seed, future in enumerate(waiting):
            np.testing.assert_array_equal(future.result(timeout=SECONDS), rows_of(make_job(seed, (1, 32, 32))))


def test_waiting_in_line_ends_with_the_deadline(server, connect) -> None:
    connection = connect(server.url, settings=SETTINGS)
    connection.health()
    stream = connection._stream
    held = [stream.slots._free.pop() for _ in range(stream.buffers.slots)]
    with pytest.raises(TimedOut, match="transferring"):
        connection.fetch(make_job(1), time.monotonic() + 1)
    stream.slots.give_back(held)
    np.testing.assert_array_equal(connection.fetch(make_job(2), soon()), rows_of(make_job(2)))
