"""Decode steps of fixed sizes on a device, each captured into CUDA graphs; two of them may be under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime

from engines.batching.logit_row import HostRow, LogitRow
from engines.onnxruntime.cuda_calls import DecoderCalls
from engines.onnxruntime.cuda_candidates import TURNS, StepLogits
from engines.onnxruntime.cuda_inputs import DeviceArray, StepArrays
from engines.onnxruntime.cuda_record import CHOSEN_BEFORE
from engines.onnxruntime.device_work import Mark

# Run options of ONNX Runtime: the CUDA graph that a run captures or replays, -1 for none; and whether a run returns
# when it has been given to the device, not when it is done.
GRAPH_OPTION, NO_GRAPH = "gpu_graph_id", -1
ASYNCHRONOUS_OPTION = "disable_synchronize_execution_providers"
# Sequences from which on the most likely tokens are found on the device where a step does not put them out anyway;
# below, copying all logits is about as quick.
CANDIDATES_FROM = 4


@dataclass(frozen=True)
class _Step:
    """A step of a fixed number of sequences, at one of its turns: what it reads and writes is always at the same place.

    Attributes:
        options: of runs after the first.
    """

    arrays: StepArrays
    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions | None


class DecodeSteps:
    """Steps of 1, 2, 4, 8 ... or all slots, whichever is the least that will do.

    A step can begin while the one before is computed, and take its tokens from it. So each size exists twice, once for
    each turn: its inputs and its most likely tokens are not where those of the step before are.

    Args:
        graphs: whether steps are captured. ONNX Runtime does that for the thread that makes this object.
        asynchronous: whether a step is only begun, as far as the device allows it.
        longest: int32 [], what every step is told is the longest sequence.
    """

    def __init__(self, calls: DecoderCalls, logits: StepLogits, slots: int, longest: np.ndarray, *, graphs: bool,
                 asynchronous: bool):
        self._calls, self._logits, self._longest = calls, logits, longest
        self._graphs, self._asynchronous = graphs, asynchronous
        self._candidates_from = 1 if logits.of_steps else CANDIDATES_FROM
        self._marks = [calls.work.create_mark() for _ in range(TURNS)]
        self._turn, self._begun = 0, [None] * TURNS
        sizes = step_sizes(slots)
        captured = {size: [self._capture(size, turn) for turn in range(TURNS)] for size in reversed(sizes)}
        self._steps = [(size, captured[size]) for size in sizes]

    def begin(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray,
              lengths_behind: Callable[[int], np.ndarray], draws: np.ndarray | None) -> DeviceStep:
        """Begin a step. Tokens below 0 are those that the step before chooses: -1 - i in its i-th row.

        Args:
            token_ids, positions, total_lengths: int32 [count].
            lengths_behind: total lengths of rows `count` to `size` - 1, which are computed for nobody, by `size`.
            draws: float64 [count, 4], see `TopLogits`; None for the likeliest tokens.
        """
        count, turn = len(token_ids), self._turn
        if (earlier := self._begun[turn]) is not None:
            earlier.wait()  # it reads what is now written
        size, steps = next(entry for entry in self._steps if entry[0] >= count)
        step = steps[turn]
        step.arrays.place(token_ids, positions, total_lengths, lengths_behind(size), draws)
        self._calls.session.run_with_iobinding(step.binding, step.options)
        self._marks[turn].set()
        begun = self._begun[turn] = DeviceStep(self._logits, count, turn, self._marks[turn],
                                               on_device=count >= self._candidates_from)
        self._turn = (turn + 1) % TURNS
        return begun

    def _capture(self, size: int, turn: int) -> _Step:
        """A step, run once: with graphs, ONNX Runtime runs it as often as capturing takes."""
        calls, graph = self._calls, TURNS * size + turn if self._graphs else None
        step = _Step(StepArrays(calls.memory, size), calls.session.io_binding(),
                     run_options(graph, asynchronous=self._asynchronous))
        nobody = np.zeros(0, np.int32)
        step.arrays.place(nobody, nobody, nobody, np.ones(size, np.int32), None)
        chosen_before = DeviceArray.on_host(self._logits.turns[turn - 1].chosen)
        calls.bind_inputs(step.binding, {**step.arrays.arrays, CHOSEN_BEFORE: chosen_before}, self._longest)
        calls.cache.bind(step.binding, 0, size)
        self._logits.bind_step(step.binding, size, turn)
        calls.session.run_with_iobinding(step.binding, run_options(graph))
        return step


class DeviceStep:
    """A step that a device computes, or has computed; see `BegunStep`."""

    def __init__(self, logits: StepLogits, count: int, turn: int, mark: Mark, *, on_device: bool):
        self._logits, self._count, self._turn, self._mark = logits, count, turn, mark
        self._on_device, self._done = on_device, False

    def wait(self) -> None:
        if not self._done:
            self._mark.wait()
            self._done = True

    def rows(self) -> Sequence[LogitRow]:
        self.wait()
        if not self._on_device:
            return [HostRow(row) for row in self._logits.all(self._count)]
        return self._logits.rows(self._count, self._turn)

    def chosen(self) -> list[int]:
        self.wait()
        return self._logits.turns[self._turn].chosen[: self._count].tolist()

    def all(self) -> np.ndarray:
        """Float32 [count, V], until the next step begins or the next call."""
        self.wait()
        return self._logits.all(self._count)


def step_sizes(slots: int) -> list[int]:
    """Sequences of the steps that there are: powers of two below `slots`, and that."""
    sizes = [1]
    while 2 * sizes[-1] < slots:
        sizes.append(2 * sizes[-1])
    return sizes if slots == 1 else [*sizes, slots]


def run_options(graph: int | None, *, asynchronous: bool = False) -> onnxruntime.RunOptions | None:
    """Of a run that captures or replays a graph, `NO_GRAPH` for none; None for a session without graphs."""
    entries = {GRAPH_OPTION: str(graph)} if graph is not None else {}
    if asynchronous:
        entries[ASYNCHRONOUS_OPTION] = "1"
    if not entries:
        return None
    options = onnxruntime.RunOptions()
    for name, value in entries.items():
        options.add_run_config_entry(name, value)
    return options
