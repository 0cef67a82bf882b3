"""Logits of a step that stay on the device: 0.6 MB for each sequence, of which most requests take a few."""

from __future__ import annotations

import numpy as np
import onnxruntime

from engines.onnxruntime.cuda_record import BEST, CANDIDATES, IDS
from engines.onnxruntime.device_memory import DeviceMemory

FLOAT, INT64 = np.float32, np.int64


class StepLogits:
    """Logits of the latest step, and the most likely tokens.

    The step itself puts these out, or they are found on the device once somebody asks for them.

    Args:
        session: of the graph of `cuda_candidates_graph`; None where steps put them out.
    """

    def __init__(self, session: onnxruntime.InferenceSession | None, memory: DeviceMemory, slots: int,
                 vocab_size: int):
        self._session, self._memory, self._vocab_size = session, memory, vocab_size
        self.candidates = min(CANDIDATES, vocab_size)
        self._logits = memory.allocate(4 * slots * vocab_size)
        self._host = memory.host_array((slots, vocab_size), FLOAT)
        # Of each row K ids, and behind those of all rows their K logits: one copy.
        size = slots * self.candidates * (8 + 4)
        self._best, self._host_best = memory.allocate(size), memory.host_array((size,), np.uint8)

    def bind_step(self, binding: onnxruntime.IOBinding, rows: int) -> None:
        """Make a step of so many sequences write its results here."""
        binding.bind_output("logits", self._memory.device, 0, FLOAT, (rows, self._vocab_size), self._logits)
        if self._session is None:
            self._bind_best(binding, rows)

    def all(self, rows: int) -> np.ndarray:
        """Float32 [rows, V], until the next call."""
        self._memory.download(self._host[:rows], self._logits)
        return self._host[:rows]

    def row(self, index: int) -> np.ndarray:
        """Float32 [V], until the next call."""
        self._memory.download(self._host[index], self._logits + 4 * index * self._vocab_size)
        return self._host[index]

    def rows(self, count: int, computed: int) -> list[DeviceRow]:
        """The first rows of a step of `computed` sequences, until the next step."""
        step = _Step(self, computed if self._session is None else count)
        return [DeviceRow(step, index) for index in range(count)]

    def best(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids int64 and logits float32 [rows, K], the largest first.

        Args:
            rows: of the step where it has put them out, else so many as are wanted.
        """
        if self._session is not None:
            binding = self._session.io_binding()
            binding.bind_input("logits", self._memory.device, 0, FLOAT, (rows, self._vocab_size), self._logits)
            self._bind_best(binding, rows)
            self._session.run_with_iobinding(binding)
        count = rows * self.candidates
        self._memory.download(self._host_best[: 12 * count], self._best)
        ids, best = self._host_best[: 8 * count].view(INT64), self._host_best[8 * count : 12 * count].view(FLOAT)
        return ids.reshape(rows, -1), best.reshape(rows, -1)

    def _bind_best(self, binding: onnxruntime.IOBinding, rows: int) -> None:
        shape = (rows, self.candidates)
        binding.bind_output(IDS, self._memory.device, 0, INT64, shape, self._best)
        binding.bind_output(BEST, self._memory.device, 0, FLOAT, shape, self._best + 8 * rows * self.candidates)


class _Step:
    """What the rows of one step share: the most likely tokens, fetched for the first that asks."""

    def __init__(self, logits: StepLogits, rows: int):
        self.logits, self._rows = logits, rows
        self._found: tuple[np.ndarray, np.ndarray] | None = None

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        if self._found is None:
            self._found = self.logits.best(self._rows)
        return self._found


class DeviceRow:
    """One of them."""

    def __init__(self, step: _Step, index: int):
        self._step, self._index = step, index

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        if count > self._step.logits.candidates:
            return None
        ids, logits = self._step.best()
        return ids[self._index, :count], logits[self._index, :count]

    def all(self) -> np.ndarray:
        return self._step.logits.row(self._index)
