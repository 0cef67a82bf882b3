"""What goes wrong between the two ends and at the other one; the rows are right or there is an error, and soon."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.encode_jobs import make_job, rows_of
from tests.support.tcp_proxy import TcpProxy
from tests.triton_repo.handoff.conftest import (
    SECONDS,
    SETTINGS,
    TRANSPORTS,
    killed_receiver_leaves_nothing,
    soon,
    wait_until,
)
from triton_repo.handoff.errors import Busy, CorruptBlock, ProtocolError, TypeMismatch, Unreachable, VersionMismatch
from triton_repo.handoff.receiver import EncodeConnection
from triton_repo.handoff.states import State
from triton_repo.handoff.wire import VERSION

# Notices soon, and tries often enough for any number of breaks that a test makes.
QUICK = replace(SETTINGS, heartbeat_seconds=0.6, stall_seconds=0.5, attempts=10, corrupt_blocks=1000)
# 144 KiB of rows: 36 blocks.
LARGE = (1, 48, 24)


@pytest.fixture
def proxy(server) -> Iterator[TcpProxy]:
    with TcpProxy(server.url) as running:
        yield running


def check(connection: EncodeConnection, *jobs) -> None:
    """Fetch all at once and compare."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for job, rows in zip(jobs, pool.map(lambda job: connection.fetch(job, soon()), jobs), strict=True):
            np.testing.assert_array_equal(rows, rows_of(job))


def test_delayed(proxy, connect) -> None:
    proxy.delay = 0.01
    check(connect(proxy.url, settings=QUICK), make_job(1, LARGE), make_job(2))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("reset", [True, False])
def test_broken_in_mid_block_goes_on_where_it_was(proxy, connect, reset: bool, transport: str) -> None:
    proxy.reset = reset
    job = make_job(1, LARGE)
    size = rows_of(job).nbytes if transport == "grpc" else 36 * 400
    connection = connect(proxy.url, transport, QUICK)
    connection.health()
    for part in (0.3, 0.6, 0.9):
        proxy.break_after(int(part * size))
        check(connection, job)
        assert proxy.break_at is None, "it was not broken"
    if transport == "grpc":
        # Four blocks may be under way at a break.
        assert proxy.down_bytes < 3 * (size + 4 * SETTINGS.block_bytes) + 100_000
    assert proxy.connections == 4
    wait_until(lambda: connection.health().transfers == 0)


def test_broken_again_and_again_at_any_byte(proxy, connect) -> None:
    chance = random.Random(7)
    connection = connect(proxy.url, settings=replace(QUICK, attempts=100))
    jobs = [make_job(seed, (1, 16, 2 * chance.randint(4, 20))) for seed in range(12)]
    breaks = 12
    with ThreadPoolExecutor(6) as pool:
        fetching = [pool.submit(connection.fetch, job, soon()) for job in jobs]
        while not all(future.done() for future in fetching):
            if proxy.break_at is None and breaks:
                proxy.break_after(chance.randint(1, 60_000))
                breaks -= 1
            time.sleep(0.02)
        for job, future in zip(jobs, fetching, strict=True):
            np.testing.assert_array_equal(future.result(), rows_of(job))
    assert proxy.connections > 3
    proxy.break_at = None
    wait_until(lambda: connection.health().transfers == 0)


def test_silence_is_noticed(proxy, connect) -> None:
    """A connection over which nothing passes any more, without an end: a cable pulled."""
    connection = connect(proxy.url, settings=QUICK)
    job = make_job(1, LARGE, seconds=0.5)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(connection.fetch, job, soon())
        wait_until(lambda: state_of(connection) is State.WAITING)
        stream = connection._stream
        proxy.frozen = True
        wait_until(lambda: stream.lost)
        proxy.break_all()
        proxy.frozen = False
        np.testing.assert_array_equal(fetching.result(timeout=SECONDS), rows_of(job))
    assert proxy.connections >= 2


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("fault", ["duplicate", "reorder", "corrupt", "lose"])
def test_faulty_sender_does_not_spoil_rows(start, connect, fault: str, transport: str) -> None:
    connection = connect(start(fault).url, transport, replace(QUICK, stall_seconds=0.1))
    check(connection, *(make_job(seed, (1, 16, 16)) for seed in range(4)))


@pytest.mark.parametrize("fault, error, text", [
    ("corrupt all", CorruptBlock, "wrong checksum"),
    ("version", VersionMismatch, f"speaks version {VERSION + 1} of the hand-off protocol, this one {VERSION}"),
    ("dtype", TypeMismatch, "dtype 'FP16', expected 'FP32'"),
    ("garbage", ProtocolError, "no hand-off message"),
])
def test_wrong_sender_is_an_error(start, connect, fault: str, error: type, text: str) -> None:
    connection = connect(start(fault).url)
    with pytest.raises(error, match=text) as raised:
        connection.fetch(make_job(1, (1, 16, 16)), soon())
    assert raised.value.another_may_help


def state_of(connection: EncodeConnection) -> State | None:
    """Of its only transfer."""
    for fetch in list(connection._fetches.values()):
        return fetch._machine.state
    return None


def hold_slots(connection: EncodeConnection) -> list[int]:
    """Take all slots but one, so that a transfer takes its time."""
    connection.health()
    pool = connection._stream.slots
    return [pool._free.pop() for _ in range(connection._stream.buffers.slots - 1)]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("state", [State.BOOTSTRAPPING, State.WAITING, State.TRANSFERRING])
def test_killed_server_in_each_state(start, connect, tmp_path: Path, state: State, transport: str) -> None:
    """The transfer goes on with the server that takes its place; without one it is an error, and soon."""
    server = start()
    connection = connect(server.url, transport, replace(QUICK, attempts=100))
    job = make_job(1, (1, 200, 80) if state is State.TRANSFERRING else LARGE,
                   seconds=30 if state is State.WAITING else 0)
    hold_slots(connection)
    if state is State.BOOTSTRAPPING:
        server.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(connection.fetch, job, time.monotonic() + SECONDS)
        wait_until(lambda: state_of(connection) is state)
        server.kill()
        if state is State.WAITING:
            with pytest.raises(Unreachable):
                connect(server.url, transport, replace(QUICK, attempts=2)).fetch(job, soon())
            connection.close()
            assert fetching.exception(timeout=SECONDS) is not None
        else:
            start(grpc_port=int(server.url.rpartition(":")[2]))
            np.testing.assert_array_equal(fetching.result(timeout=SECONDS), rows_of(job))


def test_killed_model_process_is_noticed(start, connect) -> None:
    """Triton goes on and does not start the model again."""
    server = start()
    connection = connect(server.url, settings=replace(QUICK, attempts=2, connect_seconds=1))
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(connection.fetch, make_job(1, seconds=30), soon())
        wait_until(lambda: state_of(connection) is State.WAITING)
        os.kill(server.model_process(), signal.SIGKILL)
        assert isinstance(fetching.exception(timeout=SECONDS), Unreachable)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_killed_language_server_leaves_nothing_at_the_encode_server(start, connect, transport: str) -> None:
    server = start(settings={"retention_seconds": 0.5})
    killed_receiver_leaves_nothing(server, connect(server.url, settings=QUICK), transport, "qwen3vl-handoff",
                                   mapped=transport == "shared_memory")


def test_more_rows_than_may_be_held_are_refused_until_some_are_fetched(start, connect) -> None:
    """A receiver that has no slots keeps rows at the encode server; these are bounded."""
    job = make_job(1, LARGE)
    server = start(settings={"held_bytes": rows_of(job).nbytes - 1})
    slow, other = connect(server.url), connect(server.url)
    slots = hold_slots(slow)
    last = slow._stream.slots._free.pop()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(slow.fetch, job, soon())
        wait_until(lambda: state_of(slow) is State.TRANSFERRING)
        with pytest.raises(Busy, match="held_bytes"):
            other.fetch(make_job(2), soon())
        slow._stream.slots.give_back([*slots, last])
        np.testing.assert_array_equal(fetching.result(timeout=SECONDS), rows_of(job))
    wait_until(lambda: other.health().transfers == 0)
    check(other, make_job(2))
