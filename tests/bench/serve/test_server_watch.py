"""Memory and listening processes of this machine, by processes whose sizes are known."""

import os
import socket
import subprocess
import sys
import time

import pytest

from bench.serve.server_watch import ServerWatch, listening_process, read_metrics, resident_bytes

MIB = 2**20
# A parent and its child: each allocates 100 MiB and writes to it, and 50 MiB they share.
PROGRAM = """
import mmap, os, time
shared = mmap.mmap(-1, 50 << 20)
shared.write(b"x" * (50 << 20))
child = os.fork()
own = bytearray(100 << 20)
touched = [shared[place] for place in range(0, len(shared), 4096)]  # read as a whole it would be held twice
if child:
    print("ready", flush=True)
time.sleep(600)
"""


def test_memory_of_a_process_and_its_children_counts_what_they_share_once():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while (sizes := resident_bytes(process.pid))[1] < 250 * MIB and time.monotonic() < deadline:
            time.sleep(0.01)  # until the child has written too
        total, own = sizes
        assert 250 * MIB <= own < 290 * MIB
        assert own < total < own + 60 * MIB
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert resident_bytes(process.pid) is None


def test_the_process_that_listens_is_found():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert listening_process(port) is None
        listener.listen()
        assert listening_process(port) == os.getpid()


def test_a_server_without_metrics_or_process_gives_samples_without_values():
    assert read_metrics("127.0.0.1:1") is None
    with ServerWatch("127.0.0.1:1", None, interval=0.01) as watch:
        while len(watch.samples) < 3:
            pass
    assert {(sample.memory_bytes, sample.own_bytes, sample.queued, sample.active) for sample in watch.samples} == {
        (None,) * 4}
    times = [sample.at for sample in watch.samples]
    assert times == sorted(times)
    assert watch.between(times[1], times[2]) == watch.samples[1:3]


@pytest.mark.parametrize("url", ["", "nonsense", "127.0.0.1:notaport"])
def test_an_address_of_metrics_that_is_none_gives_none(url: str):
    assert read_metrics(url) is None
