"""Bytes in bulk: what several threads do is what one would do."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from triton_repo.handoff import bulk

MIB = bulk.PART_BYTES
SIZES = [1, 7, MIB - 1, MIB, MIB + 1, 3 * MIB + 5, 9 * MIB]


def some_bytes(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_copies_are_whole_and_touch_nothing_else(size: int, threads: int, monkeypatch) -> None:
    monkeypatch.setattr(bulk, "THREADS", threads)
    source, memory = some_bytes(size), np.full(size + 2, 77, np.uint8)
    bulk.copy(memory[1:-1], source)
    np.testing.assert_array_equal(memory[1:-1], source)
    assert memory[0] == memory[-1] == 77


@pytest.mark.parametrize("size", SIZES)
def test_checksum_is_the_same_for_any_number_of_threads(size: int, monkeypatch) -> None:
    data = some_bytes(size)
    parts = [data[first:first + MIB].tobytes() for first in range(0, size, MIB)]
    expected = xxhash.xxh3_64_intdigest(b"".join(xxhash.xxh3_64_intdigest(part).to_bytes(8, "little")
                                                 for part in parts))
    for threads in (1, 2, 4):
        monkeypatch.setattr(bulk, "THREADS", threads)
        assert bulk.checksum(data) == expected


def test_checksum_tells_of_every_part_and_of_their_order() -> None:
    data = some_bytes(4 * MIB)
    known = {bulk.checksum(data), bulk.checksum(np.roll(data, MIB))}
    for byte in (0, MIB, 3 * MIB - 1, 4 * MIB - 1):
        damaged = data.copy()
        damaged[byte] ^= 1
        known.add(bulk.checksum(damaged))
    assert len(known) == 6


def test_error_of_another_thread_is_raised(monkeypatch) -> None:
    monkeypatch.setattr(bulk, "THREADS", 2)
    with pytest.raises(ValueError, match="read-only"):
        target = np.zeros(2 * MIB, np.uint8)
        target.flags.writeable = False
        bulk.copy(target, some_bytes(2 * MIB))
    with pytest.raises(ValueError, match="cannot be copied"):
        bulk.copy(np.zeros(2, np.uint8), np.zeros(3, np.uint8))
