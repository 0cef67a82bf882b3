"""Logits of a step that stay on the device: 0.6 MB for each sequence, of which most requests take a few."""

from __future__ import annotations

import functools

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
        # The device writes these where the host reads them.
        self._ids, self._best = (memory.host_array((slots, self.candidates), dtype) for dtype in (INT64, FLOAT))

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
        """Ids int64 and logits float32 [rows, K], the largest first, until the next step.

        Args:
            rows: of the step where it has put them out, else so many as are wanted.
        """
        if self._session is not None:
            binding = self._session.io_binding()
            binding.bind_input("logits", self._memory.device, 0, FLOAT, (rows, self._vocab_size), self._logits)
            self._bind_best(binding, rows)
            self._session.run_with_iobinding(binding)
        return self._ids[:rows], self._best[:rows]

    def _bind_best(self, binding: onnxruntime.IOBinding, rows: int) -> None:
        for name, array in ((IDS, self._ids), (BEST, self._best)):
            binding.bind_output(name, self._memory.device, 0, array.dtype, (rows, self.candidates), array.ctypes.data)


class _Step:
    """What the rows of one step share: the most likely tokens, fetched for the first that asks."""

    def __init__(self, logits: StepLogits, rows: int):
        self.logits, self._rows = logits, rows

    @functools.cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        return self.logits.best(self._rows)

    @functools.cached_property
    def likeliest(self) -> list[int]:
        return self.best[0][:, 0].tolist()


class DeviceRow:
    """One of them."""

    def __init__(self, step: _Step, index: int):
        self._step, self._index = step, index

    def likeliest(self) -> int:
        return self._step.likeliest[self._index]

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        if count > self._step.logits.candidates:
            return None
        ids, logits = self._step.best
        return ids[self._index, :count], logits[self._index, :count]

    def all(self) -> np.ndarray:
        return self._step.logits.row(self._index)
