"""The shared memory transport by itself: sizes as allocated, nothing left behind, in this process and after kills."""

from __future__ import annotations

import mmap
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.triton_repo.handoff.conftest import SECONDS, wait_until
from triton_repo.handoff.errors import TransportFailed
from triton_repo.handoff.transports import block_writer, receive_buffers

NAME = "qwen3vl-handoff"
HOLDER = """
import sys, time
from triton_repo.handoff.transports import block_writer, receive_buffers
buffers = receive_buffers("shared_memory", 4096, 65536)
print(buffers.describe()["name"], flush=True)
time.sleep(1000)
"""


def mappings() -> int:
    """Parts of this process's memory that are block buffers."""
    return Path("/proc/self/maps").read_text().count(NAME)


def test_blocks_arrive_in_their_slots() -> None:
    before = mappings()
    buffers = receive_buffers("shared_memory", 4096, 3 * 4096 + 100)
    assert (buffers.slots, buffers.slot_bytes) == (3, 4096)
    writer = block_writer("shared_memory", buffers.describe())
    assert mappings() == before + 2
    blocks = [np.random.default_rng(slot).integers(0, 256, 4096 - slot, np.uint8) for slot in range(3)]
    for slot, block in enumerate(blocks):
        assert writer.write(slot, block) is None
    for slot, block in enumerate(blocks):
        into = np.empty_like(block)
        buffers.read(slot, None, into)
        np.testing.assert_array_equal(into, block)
    writer.close()
    buffers.close()
    assert mappings() == before


def test_what_does_not_fit_is_refused() -> None:
    buffers = receive_buffers("shared_memory", 4096, 8192)
    writer = block_writer("shared_memory", buffers.describe())
    with pytest.raises(TransportFailed, match=r"4097 bytes .* slots have 4096"):
        writer.write(0, np.zeros(4097, np.uint8))
    with pytest.raises(TransportFailed, match="outside the 8192 bytes"):
        writer.write(2, np.zeros(1, np.uint8))
    with pytest.raises(TransportFailed, match="outside the 8192 bytes"):
        writer.write(-1, np.zeros(1, np.uint8))
    writer.close()
    with pytest.raises(TransportFailed, match="given back"):
        writer.write(0, np.zeros(1, np.uint8))
    buffers.close()
    with pytest.raises(TransportFailed, match="given back"):
        buffers.read(0, None, np.zeros(1, np.uint8))


def test_size_cannot_be_changed_under_the_other_side(tmp_path: Path) -> None:
    buffers = receive_buffers("shared_memory", 4096, 4096)
    for size in (0, 8192):
        with pytest.raises(OSError):
            mmap.mmap(buffers._file, 4096).resize(size)
        with open(f"/proc/self/fd/{buffers._file}", "r+b") as file, pytest.raises(PermissionError):
            file.truncate(size)
    buffers.close()


def test_name_is_gone_with_the_buffers_and_good_for_one_writer() -> None:
    buffers = receive_buffers("shared_memory", 4096, 4096)
    described = buffers.describe()
    block_writer("shared_memory", described).close()
    wait_until(lambda: described["name"] not in Path("/proc/net/unix").read_text())
    with pytest.raises(TransportFailed, match="one machine and in one network namespace"):
        block_writer("shared_memory", described)
    buffers.close()
    unused = receive_buffers("shared_memory", 4096, 4096)
    unused.close()
    with pytest.raises(TransportFailed):
        block_writer("shared_memory", unused.describe())
    wait_until(lambda: not any(thread.name == "shared memory" for thread in threading.enumerate()))


def test_killed_owner_leaves_nothing() -> None:
    """The writer still holds the memory, and nobody else does; then it goes too."""
    before = set(Path("/dev/shm").iterdir())
    owner = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    name = owner.stdout.readline().strip()
    writer = block_writer("shared_memory", {"name": name, "slots": 16})
    owner.send_signal(signal.SIGKILL)
    owner.wait(SECONDS)
    owner.stdout.close()
    writer.write(3, np.ones(4096, np.uint8))
    writer.close()
    assert mappings() == 0
    assert name not in Path("/proc/net/unix").read_text()
    assert not [file for file in set(Path("/dev/shm").iterdir()) - before if NAME in file.name]
