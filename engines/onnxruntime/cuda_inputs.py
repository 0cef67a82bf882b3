"""What a call of the decoder takes beside the cache, in a device's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engines.onnxruntime.cuda_record import DRAW_NUMBERS, DRAWS
from engines.onnxruntime.device_memory import DeviceMemory
from engines.visual_rows import VisualRows

INT32, FLOAT64 = np.dtype(np.int32), np.dtype(np.float64)
# Each array begins at a multiple of so many bytes: kernels read 16 at a time.
ALIGNMENT = 256
LEAST_BYTES = 16384


@dataclass(frozen=True)
class DeviceArray:
    """An array in a device's memory."""

    dtype: np.dtype
    shape: tuple[int, ...]
    address: int

    @classmethod
    def on_host(cls, array: np.ndarray) -> DeviceArray:
        """An array of `DeviceMemory.host_array`, which the device reads where it is."""
        return cls(array.dtype, array.shape, array.ctypes.data)


def _layout(sizes: Mapping[str, int]) -> tuple[dict[str, slice], int]:
    """Where arrays of so many bytes lie in one block, and how many the block has."""
    places, end = {}, 0
    for name, size in sizes.items():
        places[name] = slice(end, end + size)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return places, end


class ChunkArrays:
    """Arrays of one chunk, in one block, so that they take one copy."""

    def __init__(self, memory: DeviceMemory):
        self._memory, self._size, self._address = memory, 0, 0

    def place(self, arrays: Mapping[str, np.ndarray]) -> dict[str, DeviceArray]:
        """Copy arrays to the device. Returns where each is."""
        places, end = _layout({name: array.nbytes for name, array in arrays.items()})
        self._reserve(end)
        for name, array in arrays.items():
            self._host[places[name]].view(array.dtype)[:] = array.ravel()
        self._memory.upload(self._address, self._host[:end])
        return {name: DeviceArray(arrays[name].dtype, arrays[name].shape, self._address + place.start)
                for name, place in places.items()}

    def _reserve(self, size: int) -> None:
        if size <= self._size:
            return
        if self._address:
            self._memory.free(self._address)
        self._size = max(LEAST_BYTES, 1 << (size - 1).bit_length())  # host arrays stay: grow seldom
        self._host = self._memory.host_array((self._size,), np.uint8)
        self._address = self._memory.allocate(self._size)


class StepArrays:
    """Inputs of decode steps of `size` sequences, always at the same addresses, so that they take one copy.

    Attributes:
        arrays: where each input is, by its name.
    """

    def __init__(self, memory: DeviceMemory, size: int):
        self._memory = memory
        kinds = {"token_ids": (INT32, (size, 1)), "position_ids": (INT32, (3, size, 1)),
                 "total_lengths": (INT32, (size,)), "logit_rows": (INT32, (size,)),
                 DRAWS: (FLOAT64, (size, DRAW_NUMBERS))}
        places, end = _layout({name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in kinds.items()})
        self._host = memory.host_array((end,), np.uint8)
        self._address = memory.allocate(end)
        self.arrays = {name: DeviceArray(*kinds[name], self._address + place.start) for name, place in places.items()}
        on_host = (self._host[place].view(kinds[name][0]) for name, place in places.items())
        self._ids, self._positions, self._lengths, rows, self._draws = on_host
        self._positions, self._draws = self._positions.reshape(3, size), self._draws.reshape(size, DRAW_NUMBERS)
        rows[:] = np.arange(size)
        self._draws[:] = 0

    def place(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray,
              lengths_behind: np.ndarray, draws: np.ndarray | None) -> None:
        """Copy a step's inputs to the device.

        Args:
            token_ids, positions, total_lengths: [count], of sequences that have one more token.
            lengths_behind: [size - count], total lengths of the rows behind those, which are computed for nobody.
            draws: [count, 4]; None for the likeliest tokens.
        """
        count = len(token_ids)
        for place, values in ((self._ids, token_ids), (self._positions, positions)):
            place[..., :count] = values
            place[..., count:] = 0
        self._lengths[:count], self._lengths[count:] = total_lengths, lengths_behind
        self._draws[:count] = 0 if draws is None else draws
        self._memory.upload(self._address, self._host)


@dataclass(frozen=True)
class Table:
    """Visual rows on the device, float32 [rows, H] at `address`, behind the engine's number of rows of zeros."""

    address: int
    rows: int
    source: VisualRows | None = None


class VisualTables:
    """The tables of prompts in prefill: each is made once, with its first chunk.

    Args:
        leading_rows: rows of zeros that every table begins with.

    Attributes:
        empty: the table of calls without visual tokens: rows of zeros, one at least, as nothing has no address.
    """

    def __init__(self, memory: DeviceMemory, leading_rows: int, hidden_size: int):
        self._memory, self._padding, self._row_bytes = memory, leading_rows, 4 * hidden_size
        self._by_slot: dict[int, Table] = {}
        rows = max(leading_rows, 1)
        self.empty = Table(memory.allocate(rows * self._row_bytes), rows)

    def of(self, slot: int, visual_rows: VisualRows) -> Table:
        """The table of the prompt in a slot.

        Args:
            visual_rows: float [R, H]; the same object for each of its chunks. `DeviceRows` are let go.
        """
        if len(visual_rows) == 0:
            return self.empty
        known = self._by_slot.get(slot)
        if known is None or known.source is not visual_rows:
            self.drop(slot)
            rows = self._padding + len(visual_rows)
            known = self._by_slot[slot] = Table(self._memory.allocate(rows * self._row_bytes), rows, visual_rows)
            try:
                self._fill(known.address + self._padding * self._row_bytes, visual_rows)
            except BaseException:
                self.drop(slot)
                raise
        return known

    def _fill(self, address: int, visual_rows: VisualRows) -> None:
        if isinstance(visual_rows, np.ndarray):
            self._memory.upload(address, np.ascontiguousarray(visual_rows, np.float32))
            return
        self._memory.copy(address, visual_rows.address, visual_rows.nbytes)
        self._memory.finish()
        visual_rows.let_go()

    def move(self, source: int, target: int) -> None:
        """The sequence in slot `source` is in `target` now."""
        self.drop(target)
        if (table := self._by_slot.pop(source, None)) is not None:
            self._by_slot[target] = table

    def drop_below(self, count: int) -> None:
        """Free those of slots 0 to count - 1."""
        for slot in [slot for slot in self._by_slot if slot < count]:
            self.drop(slot)

    def drop(self, slot: int) -> None:
        """Free the table of a slot, if it has one: its prompt is in the cache, or gone."""
        if (table := self._by_slot.pop(slot, None)) is not None:
            self._memory.free(table.address)
