"""The decoder on ONNX Runtime with CUDA: a slotted cache in GPU memory, decode steps as CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from engines.batching.logit_row import HostRow, LogitRow
from engines.description import EngineDescription
from engines.onnxruntime.cuda_cache import DeviceCache
from engines.onnxruntime.cuda_candidates import StepLogits
from engines.onnxruntime.cuda_inputs import ChunkIntegers, StepIntegers, Table, VisualTables
from engines.onnxruntime.cuda_memory import require_gpu_memory
from engines.onnxruntime.cuda_record import BEST, CANDIDATES_FOLDER, CudaDecoderRecord
from engines.onnxruntime.cuda_session import PROVIDER, load_decoder_session, load_on
from engines.onnxruntime.device_memory import open_memory
from engines.visual_rows import VisualRows

INT32, FLOAT = np.int32, np.float32
# Run option of ONNX Runtime: the CUDA graph that a run captures or replays, -1 for none.
GRAPH_OPTION, NO_GRAPH = "gpu_graph_id", -1
# Sequences from which on the most likely tokens are found on the device where a step does not put them out anyway;
# below, copying all logits is about as quick.
CANDIDATES_FROM = 4


@dataclass(frozen=True)
class _Step:
    """A decode step of a fixed number of sequences: inputs and outputs are always at the same addresses."""

    size: int
    integers: StepIntegers
    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions


class CudaDecoder:
    """Runs prefill chunks and decode steps, as `engines.onnxruntime.decoder.Decoder` does and says.

    A decode step runs for 1, 2, 4, 8 ... or all slots, whichever is the least that will do; each of these is captured
    into a CUDA graph here, once. Rows beyond the running sequences are computed too. Each takes the place behind what
    its slot holds: the next token of a prompt in prefill will be written over it, and nobody reads it before.

    All calls should come from one thread, the one that makes the object: ONNX Runtime captures graphs for each thread
    by itself.

    Args:
        engine_dir: the `engines/` folder of a build for the target `cuda`.
        slots: sequences that fit the cache.
        capacity: tokens that fit one slot.
        device: "cuda", or "cpu" to compute the same engine without a GPU: no graphs are captured there.
        graphs: whether to capture steps; without, the same kernels are launched one by one.

    Attributes:
        has_graphs: whether steps are captured.

    Raises:
        ArtifactError: there is no such engine or no GPU, its memory does not suffice, or ONNX Runtime refuses it.
    """

    def __init__(self, engine_dir: Path, slots: int, capacity: int, device: str = "cuda", *,
                 graphs: bool = True):
        self.config = EngineDescription.load(engine_dir).config
        self.slots, self.capacity = slots, capacity
        text, record = self.config.text, CudaDecoderRecord.load(engine_dir / "decoder")
        self._memory = memory = open_memory(device)
        if device == "cuda":
            require_gpu_memory(record, self.config, slots, capacity)
        self._session = load_decoder_session(engine_dir / "decoder", device, graphs=graphs)
        self.has_graphs = self._session.get_provider_options().get(PROVIDER, {}).get("enable_cuda_graph") == "1"
        self._cache = DeviceCache(memory, record, text, slots, capacity)
        self._tables = VisualTables(memory, record.leading_rows, text.hidden_size)
        self._chunk_integers = ChunkIntegers(memory)
        puts_out_best = any(output.name == BEST for output in self._session.get_outputs())
        candidates = None if puts_out_best else load_on(device, engine_dir / "decoder" / CANDIDATES_FOLDER)
        self._candidates_from = 1 if puts_out_best else CANDIDATES_FROM
        self._logits = StepLogits(candidates, memory, slots, text.vocab_size)
        self._chunk_logits, self._chunk_logit_rows = memory.allocate(4 * text.vocab_size), 1
        # Read on the host. A captured step has one value for good: the longest that any sequence can be.
        self._longest_chunk, self._longest = np.zeros((), INT32), np.array(capacity, INT32)
        self._held = np.zeros(slots, INT32)  # tokens of a prompt in prefill in each slot
        self._chunk_bindings: dict[int, onnxruntime.IOBinding] = {}
        self._chunk_options = _run_options(NO_GRAPH if self.has_graphs else None)
        self._steps = [self._capture(size) for size in reversed(step_sizes(slots))][::-1]

    def prefill(self, slot: int, token_ids: np.ndarray, position_ids: np.ndarray, visual_rows: VisualRows,
                start: int, logit_rows: np.ndarray) -> np.ndarray:
        """Append tokens to a slot that holds `start` tokens; see `Decoder.prefill`. Rows may be `DeviceRows`."""
        end, count = start + len(token_ids), len(logit_rows)
        self._require_fit(end)
        self._longest_chunk[...] = end
        self._held[slot] = end
        binding = self._chunk_binding(slot)
        arrays = {"token_ids": token_ids[None], "position_ids": position_ids[:, None],
                  "total_lengths": np.array([end], INT32), "logit_rows": logit_rows}
        self._bind_inputs(binding, {name: array.shape for name, array in arrays.items()},
                          self._chunk_integers.place(arrays), self._longest_chunk, self._tables.of(slot, visual_rows))
        vocab_size = self.config.text.vocab_size
        if count > self._chunk_logit_rows:
            self._memory.free(self._chunk_logits)
            self._chunk_logits, self._chunk_logit_rows = self._memory.allocate(4 * count * vocab_size), count
        binding.bind_output("logits", self._memory.device, 0, FLOAT, (count, vocab_size), self._chunk_logits)
        self._session.run_with_iobinding(binding, self._chunk_options)
        logits = np.empty((count, vocab_size), FLOAT)
        self._memory.download(logits, self._chunk_logits)
        return logits

    def decode(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray) -> np.ndarray:
        """One token more for each of the slots 0 to B-1; see `Decoder.decode`. The next call overwrites the logits."""
        self._step(token_ids, positions, total_lengths)
        return self._logits.all(len(token_ids))

    def decode_rows(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray) -> list[LogitRow]:
        """As `decode`, but of many sequences' logits no more is copied than their requests take."""
        count = len(token_ids)
        if count < self._candidates_from:
            return [HostRow(row) for row in self.decode(token_ids, positions, total_lengths)]
        return self._logits.rows(count, self._step(token_ids, positions, total_lengths))

    def _step(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray) -> int:
        """Returns how many sequences were computed."""
        count = len(token_ids)
        self._require_fit(int(total_lengths.max()))
        self._tables.drop_below(count)
        self._held[:count] = 0  # once one of them leaves, nobody needs what its slot holds
        step = next(step for step in self._steps if step.size >= count)
        self._place(step, token_ids, positions, total_lengths)
        self._session.run_with_iobinding(step.binding, step.options)
        return step.size

    def move_slot(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        self._cache.move(source, target, length)
        self._tables.move(source, target)
        self._held[target], self._held[source] = length, 0

    def _require_fit(self, longest: int) -> None:
        if longest > self.capacity:
            raise ValueError(f"{longest} tokens do not fit a slot of {self.capacity}")

    def _capture(self, size: int) -> _Step:
        """The step of so many sequences, run once: with graphs, ONNX Runtime runs it as often as capturing takes."""
        step = _Step(size, StepIntegers(self._memory, size), self._session.io_binding(),
                     _run_options(size if self.has_graphs else None))
        nobody = np.zeros(0, INT32)
        self._place(step, nobody, nobody, nobody)
        self._bind_inputs(step.binding, step.integers.shapes, step.integers.addresses, self._longest,
                          self._tables.empty)
        self._cache.bind(step.binding, 0, size)
        self._logits.bind_step(step.binding, size)
        self._session.run_with_iobinding(step.binding, step.options)
        return step

    def _place(self, step: _Step, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray) -> None:
        held = self._held[len(token_ids) : step.size]
        step.integers.place(token_ids, positions, total_lengths, np.minimum(held, self.capacity - 1) + 1)

    def _bind_inputs(self, binding: onnxruntime.IOBinding, shapes: Mapping[str, tuple[int, ...]],
                     addresses: Mapping[str, int], longest: np.ndarray, table: Table) -> None:
        device = self._memory.device
        for name, shape in shapes.items():
            binding.bind_input(name, device, 0, INT32, shape, addresses[name])
        binding.bind_input("max_total_length", "cpu", 0, INT32, (), longest.ctypes.data)
        binding.bind_input("visual_rows", device, 0, FLOAT, (table.rows, self.config.text.hidden_size), table.address)

    def _chunk_binding(self, slot: int) -> onnxruntime.IOBinding:
        if slot not in self._chunk_bindings:
            self._chunk_bindings[slot] = self._session.io_binding()
            self._cache.bind(self._chunk_bindings[slot], slot, 1)
        return self._chunk_bindings[slot]


def step_sizes(slots: int) -> list[int]:
    """Sequences of the steps that are captured: powers of two below `slots`, and that."""
    sizes = [1]
    while 2 * sizes[-1] < slots:
        sizes.append(2 * sizes[-1])
    return sizes if slots == 1 else [*sizes, slots]


def _run_options(graph: int | None) -> onnxruntime.RunOptions | None:
    if graph is None:
        return None
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(GRAPH_OPTION, str(graph))
    return options
