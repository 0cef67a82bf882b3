"""Visual rows, wherever they are: arrays in the host's memory, or `DeviceRows` in a GPU's.

Whoever passes rows on needs their shape alone. Only a vision encoder that leaves them on a GPU makes `DeviceRows`, only
a decoder that computes there reads them, and everything else has arrays.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from engines.onnxruntime.device_memory import DeviceMemory

DTYPE = np.dtype(np.float32)


class _Block:
    """An allocation that is given back once nobody holds it."""

    def __init__(self, memory: DeviceMemory, size: int):
        self.address = memory.allocate(size)
        weakref.finalize(self, memory.free, self.address).atexit = False  # a process that ends gives back everything


class DeviceRows:
    """float32 [R, H] in a device's memory, one behind the other. Parts share memory, and the last one gives it back.

    Args:
        memory: where they are.
        rows, hidden: R, above 0, and H.

    Attributes:
        shape: [R, H].
        address: of the first row; for whoever made them, to write them there once, and for readers after that.

    Raises:
        ArtifactError: the memory does not suffice.
    """

    ndim = 2

    def __init__(self, memory: DeviceMemory, rows: int, hidden: int):
        self.shape, self.memory = (rows, hidden), memory
        self._block: _Block | None = _Block(memory, rows * hidden * DTYPE.itemsize)
        self._offset = 0

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * DTYPE.itemsize

    @property
    def address(self) -> int:
        if self._block is None:
            raise ValueError("these visual rows have been let go")
        return self._block.address + self._offset

    @property
    def held(self) -> bool:
        """Whether they have not been let go."""
        return self._block is not None

    def part(self, start: int, stop: int) -> DeviceRows:
        """Rows `start` to `stop`, in the same memory."""
        part = object.__new__(DeviceRows)
        part.shape, part.memory, part._block = (stop - start, self.shape[1]), self.memory, self._block
        part._offset = self._offset + start * self.shape[1] * DTYPE.itemsize
        return part

    def to_host(self) -> np.ndarray:
        """A copy in the host's memory, float32 [R, H]."""
        array = np.empty(self.shape, DTYPE)
        self.memory.download(array, self.address)
        return array

    def let_go(self) -> None:
        """Their reader has copied them: they can't be read again, and hold no memory."""
        self._block = None


VisualRows = np.ndarray | DeviceRows


def split_rows(rows: VisualRows, count: int) -> list[VisualRows]:
    """As many parts of equal length, without a copy."""
    if isinstance(rows, np.ndarray):
        return np.split(rows, count)
    length = len(rows) // count
    return [rows.part(start, start + length) for start in range(0, len(rows), length)]


def join_rows(parts: Sequence[VisualRows], hidden: int) -> VisualRows:
    """Parts in the same memory, one behind the other; a single part is not copied, and none is an array [0, hidden]."""
    if len(parts) == 1:
        return parts[0]
    if not parts or isinstance(parts[0], np.ndarray):
        return np.concatenate([np.empty((0, hidden), DTYPE), *parts])
    memory = parts[0].memory
    joined = DeviceRows(memory, sum(map(len, parts)), hidden)
    end = joined.address
    for part in parts:
        memory.copy(end, part.address, part.nbytes)
        end += part.nbytes
    memory.finish()
    return joined
