"""The transport through GPU memory, with a real Triton and an emulated GPU (`tests.support.emulated_gpu`).

Memory is shared between the two processes as CUDA's is, and goes with its owner only when nobody has it open. What a
real driver does to a writer whose receiver was killed is not shown, nor are streams, nor time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from engines import cuda_driver
from tests.support.emulated_gpu import EmulatedGpu
from tests.support.encode_jobs import make_job, rows_of
from tests.triton_repo.handoff.conftest import SETTINGS, killed_receiver_leaves_nothing, soon, wait_until
from triton_repo.handoff.errors import TransportFailed, Unreachable
from triton_repo.handoff.transports import block_writer, receive_buffers
from triton_repo.handoff.transports.cuda_shared_memory import _gpu

NAME = "cuda_shared_memory"
LARGE = (1, 96, 128)
QUICK = replace(SETTINGS, connect_seconds=3, heartbeat_seconds=0.6, stall_seconds=2, attempts=4)
# Opens block buffers, and goes without closing anything.
OWNER = f"""
import json, sys
from triton_repo.handoff.transports import receive_buffers
print(json.dumps(receive_buffers("{NAME}", 4096, 65536).describe()), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def gpu(emulated_gpu: EmulatedGpu):
    """Each test's process has its own."""
    _gpu.cache_clear()
    yield emulated_gpu
    _gpu.cache_clear()


@pytest.fixture
def owner():
    """Another process's block buffers, as it describes them; killed after the test."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_rows_arrive_as_they_were_made(start, connect, gpu: EmulatedGpu) -> None:
    connection = connect(start().url, NAME)
    jobs = [make_job(seed, (1, 8, 8 + 2 * (seed % 7)), seconds=0.01 * (seed % 3)) for seed in range(40)]
    with ThreadPoolExecutor(20) as pool:
        for job, rows in zip(jobs, pool.map(lambda job: connection.fetch(job, soon()), jobs), strict=True):
            np.testing.assert_array_equal(rows, rows_of(job))
    counts, size = gpu.counts(), sum(rows_of(job).nbytes for job in jobs)
    assert (counts["to_device"], counts["to_host"], counts["opened"]) == (size, size, 1)


def test_slots_of_a_closed_stream_are_used_again_and_never_freed(start, connect, gpu: EmulatedGpu) -> None:
    server, held = start(), []
    for seed in range(3):
        connection, job = connect(server.url, NAME), make_job(seed)
        np.testing.assert_array_equal(connection.fetch(job, soon()), rows_of(job))
        connection.close()
        held.append(gpu.counts()["held"])
    assert held == [SETTINGS.buffer_bytes] * 3


def test_what_does_not_fit_is_refused(owner) -> None:
    writer = block_writer(NAME, owner[1])
    for slot, size in ((0, 4097), (16, 1), (-1, 1)):
        with pytest.raises(TransportFailed, match=r"there are 16 slots of 4096"):
            writer.write(slot, np.zeros(size, np.uint8))
    writer.write(15, np.zeros(4096, np.uint8))
    writer.close()
    with pytest.raises(TransportFailed, match="given back"):
        writer.write(0, np.zeros(1, np.uint8))
    buffers = receive_buffers(NAME, 4096, 4096)
    buffers.close()
    with pytest.raises(TransportFailed, match="given back"):
        buffers.read(0, None, np.zeros(1, np.uint8))


def test_another_gpu_is_refused(start, connect, monkeypatch) -> None:
    monkeypatch.setenv("EMULATED_CUDA_UUID", "another GPU")
    server = start()
    monkeypatch.delenv("EMULATED_CUDA_UUID")
    with pytest.raises(TransportFailed, match=r"language server's GPU is 656d756c.*this encode server's is 616e6f74"):
        connect(server.url, NAME).fetch(make_job(1), soon())


def test_processes_that_cannot_share_memory_are_told(start, connect, monkeypatch) -> None:
    monkeypatch.setenv("EMULATED_CUDA_REFUSES_SHARING", "1")
    with pytest.raises(TransportFailed, match=r"cannot be opened: both servers must run on one machine"):
        connect(start().url, NAME).fetch(make_job(1), soon())


@pytest.mark.parametrize("side", ["language", "encode"])
def test_a_server_without_a_gpu_is_told(start, connect, monkeypatch, side: str) -> None:
    with monkeypatch.context() as patch:
        if side == "encode":
            patch.setenv("LD_LIBRARY_PATH", "")
        server = start()
    if side == "language":
        monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(TransportFailed, match=r"cuda_shared_memory needs a GPU: no NVIDIA driver"):
        connect(server.url, NAME).fetch(make_job(1), soon())
    job = make_job(2)
    np.testing.assert_array_equal(connect(server.url, "shared_memory").fetch(job, soon()), rows_of(job))


def test_a_killed_encode_server_is_noticed_and_the_next_one_used(start, connect) -> None:
    server, job = start(), make_job(1, LARGE, seconds=30)
    connection = connect(server.url, NAME, replace(QUICK, attempts=2))
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(connection.fetch, job, soon())
        wait_until(lambda: connection.health().transfers == 1)
        server.kill()
        assert isinstance(fetching.exception(timeout=60), Unreachable)
    other = make_job(2, LARGE)
    np.testing.assert_array_equal(connect(start().url, NAME).fetch(other, soon()), rows_of(other))


def test_a_killed_language_server_leaves_nothing_at_the_encode_server(start, connect) -> None:
    server = start(settings={"retention_seconds": 0.5})
    killed_receiver_leaves_nothing(server, connect(server.url, settings=QUICK), NAME, "memfd:emulated_cuda",
                                   mapped=True)


def test_a_write_after_the_owner_was_killed_does_no_harm(owner, gpu: EmulatedGpu) -> None:
    process, described = owner
    writer = block_writer(NAME, described)
    process.kill()
    process.wait()
    writer.write(3, np.ones(4096, np.uint8))
    writer.close()
    with pytest.raises(TransportFailed, match="cannot be opened"):
        block_writer(NAME, described)
