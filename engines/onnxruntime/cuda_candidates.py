"""Logits of a step that stay on the device: 0.6 MB for each sequence, of which most requests take a few."""

from __future__ import annotations

import numpy as np
import onnxruntime

from engines.onnxruntime.device_memory import DeviceMemory


class StepLogits:
    """Logits of the latest step, and the most likely tokens, found on the device once somebody asks for them.

    Attributes:
        address: of float32 [slots, V], which the step writes.

    Args:
        session: of the graph of `cuda_candidates_graph`.
    """

    def __init__(self, session: onnxruntime.InferenceSession, memory: DeviceMemory, slots: int, vocab_size: int):
        self._session, self._memory, self._vocab_size = session, memory, vocab_size
        self.address = memory.allocate(4 * slots * vocab_size)
        self._host = memory.host_array((slots, vocab_size), np.float32)
        self._count = session.get_outputs()[0].shape[-1]
        self._best, self._ids = (memory.allocate(size * slots * self._count) for size in (4, 8))
        self._host_best, self._host_ids = (memory.host_array((slots, self._count), kind)
                                           for kind in (np.float32, np.int64))

    def all(self, rows: int) -> np.ndarray:
        """Float32 [rows, V], until the next call."""
        self._memory.download(self._host[:rows], self.address)
        return self._host[:rows]

    def rows(self, rows: int) -> list[DeviceRow]:
        """The first rows, until the next step."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        return [DeviceRow(self, rows, found, index) for index in range(rows)]

    def row(self, index: int) -> np.ndarray:
        """Float32 [V], until the next call."""
        self._memory.download(self._host[index], self.address + 4 * index * self._vocab_size)
        return self._host[index]

    def best(self, rows: int, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids int64 and logits float32 [rows, K] of the first rows, the largest first; None if K is below `count`."""
        if count > self._count:
            return None
        device, binding = self._memory.device, self._session.io_binding()
        binding.bind_input("logits", device, 0, np.float32, (rows, self._vocab_size), self.address)
        binding.bind_output("best", device, 0, np.float32, (rows, self._count), self._best)
        binding.bind_output("ids", device, 0, np.int64, (rows, self._count), self._ids)
        self._session.run_with_iobinding(binding)
        ids, best = self._host_ids[:rows], self._host_best[:rows]
        self._memory.download(ids, self._ids)
        self._memory.download(best, self._best)
        return ids, best


class DeviceRow:
    """One of them.

    Args:
        rows: of the step.
        found: its best, which the first row that needs them adds.
    """

    def __init__(self, logits: StepLogits, rows: int, found: list[tuple[np.ndarray, np.ndarray]], index: int):
        self._logits, self._rows, self._found, self._index = logits, rows, found, index

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        if not self._found:
            best = self._logits.best(self._rows, count)
            if best is None:
                return None
            self._found.append(best)
        ids, logits = (array[self._index, :count] for array in self._found[0])
        return (ids, logits) if len(ids) == count else None

    def all(self) -> np.ndarray:
        return self._logits.row(self._index)
