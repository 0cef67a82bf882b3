"""Rows put into a device's memory one behind the other, or joined in the host's where that has no room."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from engines.visual_rows import DeviceRows
from tests.support.watched_memory import HIDDEN, WatchedMemory, numbers
from triton_repo.device_rows import PASSING_SECONDS, PoolShare
from triton_repo.split.row_upload import RowUpload

PARTS = [numbers(3, 1), numbers(5, 2), numbers(3, 1)]


@pytest.mark.parametrize("parts", [PARTS[:1], PARTS])
def test_rows_are_in_order_in_one_block_that_is_given_back(parts: list[np.ndarray]) -> None:
    memory = WatchedMemory()
    for part in parts:
        part.flags.writeable = False  # as the cache's are
    rows = RowUpload(memory, lambda size: size == sum(part.nbytes for part in parts))(parts, HIDDEN)
    assert isinstance(rows, DeviceRows) and memory.blocks == 1
    np.testing.assert_array_equal(rows.to_host(), np.concatenate(parts))
    del rows
    assert memory.blocks == 0


def test_without_room_rows_stay_in_the_hosts_memory() -> None:
    memory = WatchedMemory()
    rows = RowUpload(memory, lambda size: False)(PARTS, HIDDEN)
    np.testing.assert_array_equal(rows, np.concatenate(PARTS))
    memory.refuse = "allocate"
    assert RowUpload(memory, lambda size: True)([], HIDDEN).shape == (0, HIDDEN)


def test_full_gpu_is_said_once_and_costs_nothing_else(caplog) -> None:
    memory = WatchedMemory()
    upload = RowUpload(memory, lambda size: True)
    memory.refuse = "allocate"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(upload(PARTS, HIDDEN), np.concatenate(PARTS))
    assert [record.getMessage() for record in caplog.records] == [
        "visual rows go through the host's memory where the GPU has no room for them: no allocate"]
    memory.refuse = ""
    assert isinstance(upload(PARTS, HIDDEN), DeviceRows)


def test_share_of_the_pool_is_that_of_any_short_while() -> None:
    now = 10.0
    share = PoolShare(100, lambda: now)
    assert not share.take(101)
    assert share.take(60) and not share.take(41) and share.take(40) and not share.take(1)
    now += PASSING_SECONDS / 2
    assert not share.take(1)
    now += PASSING_SECONDS / 2
    assert share.take(70) and not share.take(31)
