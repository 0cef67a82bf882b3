"""Visual rows in a device's memory, which is the host's here: who holds them and until when."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from engines import dlpack
from engines.onnxruntime.cuda_inputs import VisualTables
from engines.onnxruntime.row_intake import RowIntake
from engines.visual_rows import DeviceRows, join_rows, split_rows
from qwen3vl.errors import ArtifactError
from tests.support.watched_memory import HIDDEN, WatchedMemory, numbers, on_device


@pytest.fixture
def memory() -> WatchedMemory:
    return WatchedMemory()


class Exporter:
    """What numpy takes a capsule from: a reader of DLPack that is not this project's."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: object) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.DEVICES["cpu"], 0


# Rows and their memory.

def test_parts_share_memory_and_the_last_one_gives_it_back(memory):
    array = numbers(12)
    rows = on_device(memory, array)
    parts = split_rows(rows, 3)
    for part, expected in zip(parts, np.split(array, 3), strict=True):
        assert (part.shape, len(part), part.ndim, part.nbytes) == ((4, HIDDEN), 4, 2, 16 * HIDDEN)
        np.testing.assert_array_equal(part.to_host(), expected)
        np.testing.assert_array_equal(part.part(1, 3).to_host(), expected[1:3])
    del rows, part
    assert memory.blocks == 1
    parts[0].let_go()
    assert not parts[0].held and parts[1].held and memory.blocks == 1
    with pytest.raises(ValueError, match="let go"):
        parts[0].to_host()
    del parts
    assert memory.blocks == 0


def test_joined_rows_are_one_behind_the_other(memory):
    arrays = [numbers(rows, seed=rows) for rows in (4, 2, 6)]
    parts = [on_device(memory, array) for array in arrays]
    joined = join_rows(parts, HIDDEN)
    np.testing.assert_array_equal(joined.to_host(), np.concatenate(arrays))
    np.testing.assert_array_equal(join_rows(arrays, HIDDEN), np.concatenate(arrays))
    assert join_rows(parts[:1], HIDDEN) is parts[0] and join_rows(arrays[:1], HIDDEN) is arrays[0]
    assert join_rows([], HIDDEN).shape == (0, HIDDEN)
    del parts
    assert memory.blocks == 1
    memory.refuse = "copy"
    with pytest.raises(ArtifactError):
        join_rows(split_rows(joined, 3), HIDDEN)
    assert memory.blocks == 1


# DLPack.

def test_rows_are_held_for_as_long_as_another_library_reads_them(memory):
    array = numbers(6)
    capsule = dlpack.lend(on_device(memory, array).part(2, 6))
    borrowed = dlpack.borrow(capsule)
    assert borrowed.shape == (4, HIDDEN)
    read = np.from_dlpack(Exporter(capsule))
    np.testing.assert_array_equal(read, array[2:])
    assert read.ctypes.data == borrowed.address
    with pytest.raises(ValueError, match="PyCapsule"):
        dlpack.borrow(capsule)  # numpy has taken it over
    with pytest.raises(ValueError, match="PyCapsule"):
        dlpack.withdraw(capsule)
    del capsule, borrowed
    assert (memory.blocks, dlpack.lent_count()) == (1, 1)
    del read
    gc.collect()
    assert (memory.blocks, dlpack.lent_count()) == (0, 0)
    dlpack.withdraw(dlpack.lend(on_device(memory, array)))
    assert (memory.blocks, dlpack.lent_count()) == (0, 0)


@pytest.mark.parametrize(("array", "problem"), [
    (np.zeros((2, 3), np.int32), "type code 0 of 32 bits"), (np.zeros((2, 3)), "64 bits"),
    (np.zeros((4, 3), np.float32)[::2], r"strides \[6, 1\]"), (np.zeros((4, 3), np.float32).T, r"strides \[1, 3\]")])
def test_what_is_not_float32_without_gaps_is_not_borrowed(array: np.ndarray, problem: str):
    with pytest.raises(ValueError, match=problem):
        dlpack.borrow(array.__dlpack__())


def test_a_tensor_of_numpy_is_borrowed_where_it_is():
    array = numbers(4)
    borrowed = dlpack.borrow(array.__dlpack__())
    assert (borrowed.address, borrowed.shape) == (array.ctypes.data, (4, HIDDEN))


# Taking rows in.

def test_rows_beyond_the_limit_wait_in_the_hosts_memory(memory):
    array = numbers(4)
    borrowed = dlpack.borrow(array.__dlpack__())
    intake = RowIntake(memory, limit=2 * array.nbytes)
    taken = [intake.take(borrowed) for _ in range(3)]
    assert [isinstance(rows, DeviceRows) for rows in taken] == [True, True, False]
    np.testing.assert_array_equal([rows.to_host() for rows in taken[:2]], [array, array])
    np.testing.assert_array_equal(taken[2], array)
    assert taken[2].ctypes.data != array.ctypes.data
    assert intake.waiting_bytes() == 2 * array.nbytes
    taken[0].let_go()  # used by a prompt
    del taken[1]  # cancelled
    assert (intake.waiting_bytes(), memory.blocks) == (0, 0)
    assert isinstance(intake.take(borrowed), DeviceRows)


def test_a_gpu_without_room_is_told_of_once(memory, caplog):
    array = numbers(4)
    intake, memory.refuse = RowIntake(memory, limit=10**6), "allocate"
    for _ in range(2):
        np.testing.assert_array_equal(intake.take(dlpack.borrow(array.__dlpack__())), array)
    assert [record.message for record in caplog.records] == [
        "visual rows wait in the host's memory where the GPU has no room for them: no allocate"]


def test_a_copy_that_fails_leaves_nothing_behind(memory):
    intake, memory.refuse = RowIntake(memory, limit=10**6), "copy"
    with pytest.raises(ArtifactError, match="no copy"):
        intake.take(dlpack.borrow(numbers(4).__dlpack__()))
    assert (memory.blocks, intake.waiting_bytes()) == (0, 0)


def test_a_table_is_the_same_wherever_rows_come_from_and_lets_them_go(memory):
    array, tables = numbers(12), VisualTables(memory, 4, HIDDEN)
    expected, found = np.empty((16, HIDDEN), np.float32), np.empty((16, HIDDEN), np.float32)
    memory.download(expected, tables.of(0, array).address)
    rows = on_device(memory, array)
    table = tables.of(1, rows)
    memory.download(found, table.address)
    np.testing.assert_array_equal(found, expected)
    assert memory.blocks == 3 and not rows.held  # two tables and the empty one
    assert tables.of(1, rows) == table
    tables.move(1, 2)
    assert tables.of(2, rows) == table
    memory.refuse, other = "copy", on_device(memory, array)
    with pytest.raises(ArtifactError):
        tables.of(3, other)
    del other
    assert memory.blocks == 3
