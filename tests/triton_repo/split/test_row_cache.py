"""The cache against a plain model of it, and under many threads."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triton_repo.split.row_cache import CacheStats, RowCache

ROW = 16  # bytes of the test's rows


def rows_of(number: int, rows: int = 1) -> np.ndarray:
    return np.full((rows, ROW // 4), number, np.float32)


def key(number: int, engine: str = "engine") -> tuple[str, bytes]:
    return engine, bytes([number]) * 32


def test_what_was_put_is_got() -> None:
    cache = RowCache(10 * ROW)
    cache.put(key(1), rows_of(1))
    np.testing.assert_array_equal(cache.get(key(1)), rows_of(1))
    assert cache.get(key(2)) is None
    assert cache.get(key(1, "another engine")) is None
    assert cache.stats() == CacheStats(entries=1, bytes=ROW, hits=1, misses=2, evictions=0)


def test_rows_cannot_be_changed_by_who_got_them() -> None:
    cache = RowCache(10 * ROW)
    cache.put(key(1), rows_of(1))
    with pytest.raises(ValueError, match="read-only"):
        cache.get(key(1))[:] = 7


def test_part_of_something_larger_does_not_hold_it() -> None:
    cache = RowCache(10 * ROW)
    cache.put(key(1), np.zeros((1000, ROW // 4), np.float32)[3:4])
    assert cache.get(key(1)).base is None


def test_what_is_larger_than_the_cache_is_not_kept_and_costs_nothing() -> None:
    cache = RowCache(3 * ROW)
    cache.put(key(1), rows_of(1))
    cache.put(key(2), rows_of(2, 4))
    assert cache.get(key(2)) is None
    assert cache.get(key(1)) is not None


def test_no_cache_at_all() -> None:
    cache = RowCache(0)
    cache.put(key(1), rows_of(1))
    assert cache.get(key(1)) is None


@given(st.integers(0, 12), st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(1, 5))))
def test_least_recently_used_makes_room(limit: int, steps: list[tuple[bool, int, int]]) -> None:
    cache, model, hits, evictions = RowCache(limit * ROW), OrderedDict(), 0, 0
    for puts, number, rows in steps:
        if puts:
            cache.put(key(number), rows_of(number, rows))
            if number not in model and rows <= limit:
                model[number] = rows
                while sum(model.values()) > limit:
                    model.popitem(last=False)
                    evictions += 1
        else:
            got = cache.get(key(number))
            assert (got is not None) == (number in model)
            if number in model:
                np.testing.assert_array_equal(got, rows_of(number, model[number]))
                model.move_to_end(number)
                hits += 1
    stats = cache.stats()
    assert (stats.entries, stats.bytes, stats.hits, stats.evictions) == (
        len(model), sum(model.values()) * ROW, hits, evictions)
    assert stats.bytes <= limit * ROW


def test_many_threads_never_get_the_rows_of_another_key() -> None:
    cache = RowCache(20 * ROW)

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 40, 500).tolist():
            got = cache.get(key(number))
            assert got is None or (got == number).all()
            cache.put(key(number), rows_of(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    stats = cache.stats()
    assert stats.bytes == stats.entries * ROW <= 20 * ROW
    assert stats.hits + stats.misses == 8 * 500
