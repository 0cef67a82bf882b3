"""Logits of a step that stay on the device: 0.6 MB for each sequence, of which most requests take a few, or none."""

from __future__ import annotations

import functools

import numpy as np
import onnxruntime

from engines.onnxruntime.cuda_record import BEST, CANDIDATES, CHOSEN, IDS
from engines.onnxruntime.device_memory import DeviceMemory

FLOAT, INT64 = np.float32, np.int64
# Steps whose most likely tokens are kept: one that is read and one that is computed.
TURNS = 2


class Candidates:
    """The most likely tokens of a step, and which of them are chosen, where the device writes them and the host reads.

    Attributes:
        ids, best: int64 and float32 [slots, K], the largest logits first.
        chosen: int64 [slots].
    """

    def __init__(self, memory: DeviceMemory, slots: int, count: int):
        self.ids, self.best = (memory.host_array((slots, count), dtype) for dtype in (INT64, FLOAT))
        self.chosen = memory.host_array((slots,), INT64)
        self.chosen[:] = 0
        self._device = memory.device

    def bind(self, binding: onnxruntime.IOBinding, rows: int, *, chosen: bool) -> None:
        """Make a call with so many rows of logits write here."""
        outputs = {IDS: self.ids, BEST: self.best} | ({CHOSEN: self.chosen} if chosen else {})
        for name, array in outputs.items():
            binding.bind_output(name, self._device, 0, array.dtype, (rows, *array.shape[1:]), array.ctypes.data)


class StepLogits:
    """Logits of the latest step, and the most likely tokens of two.

    The step itself puts these out, or they are found on the device once somebody asks for them.

    Args:
        session: of the graph of `cuda_candidates_graph`; None where steps put them out.

    Attributes:
        of_steps: whether steps put them out.
        turns: the candidates of steps in turn, so that one step's can be read while the next writes its own.
        count: K.
    """

    def __init__(self, session: onnxruntime.InferenceSession | None, memory: DeviceMemory, slots: int,
                 vocab_size: int):
        self._session, self._memory, self._vocab_size = session, memory, vocab_size
        self.of_steps = session is None
        self.count = min(CANDIDATES, vocab_size)
        self._logits = memory.allocate(4 * slots * vocab_size)
        self._host = memory.host_array((slots, vocab_size), FLOAT)
        self.turns = [Candidates(memory, slots, self.count) for _ in range(TURNS)]

    def bind_step(self, binding: onnxruntime.IOBinding, rows: int, turn: int) -> None:
        """Make a step of so many sequences write its results here."""
        binding.bind_output("logits", self._memory.device, 0, FLOAT, (rows, self._vocab_size), self._logits)
        if self.of_steps:
            self.turns[turn].bind(binding, rows, chosen=True)

    def all(self, rows: int) -> np.ndarray:
        """Float32 [rows, V], until the next call."""
        self._memory.download(self._host[:rows], self._logits)
        return self._host[:rows]

    def row(self, index: int) -> np.ndarray:
        """Float32 [V], until the next call."""
        self._memory.download(self._host[index], self._logits + 4 * index * self._vocab_size)
        return self._host[index]

    def rows(self, count: int, turn: int) -> list[DeviceRow]:
        """The first rows of a step that is done. What is read of all their logits is the latest step's."""
        step = _Step(self, count, turn)
        return [DeviceRow(step, index) for index in range(count)]

    def best(self, rows: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids int64 and logits float32 [rows, K], the largest first, until the turn comes again."""
        found = self.turns[turn]
        if self._session is not None:
            binding = self._session.io_binding()
            binding.bind_input("logits", self._memory.device, 0, FLOAT, (rows, self._vocab_size), self._logits)
            found.bind(binding, rows, chosen=False)
            self._session.run_with_iobinding(binding)
        return found.ids[:rows], found.best[:rows]


class _Step:
    """What the rows of one step share: the most likely tokens, fetched for the first that asks."""

    def __init__(self, logits: StepLogits, rows: int, turn: int):
        self.logits, self._rows, self._turn = logits, rows, turn

    @functools.cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        return self.logits.best(self._rows, self._turn)

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
        if count > self._step.logits.count:
            return None
        ids, logits = self._step.best
        return ids[self._index, :count], logits[self._index, :count]

    def all(self) -> np.ndarray:
        return self._step.logits.row(self._index)
