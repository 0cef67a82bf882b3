"""The decoder on ONNX Runtime with CUDA: a slotted cache in GPU memory, decode steps as CUDA graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from engines.description import EngineDescription
from engines.onnxruntime.cuda_cache import DeviceCache
from engines.onnxruntime.cuda_calls import DecoderCalls
from engines.onnxruntime.cuda_candidates import StepLogits
from engines.onnxruntime.cuda_inputs import ChunkArrays, DeviceArray, VisualTables
from engines.onnxruntime.cuda_memory import require_gpu_memory
from engines.onnxruntime.cuda_record import (
    CANDIDATES_FOLDER,
    CHOSEN_BEFORE,
    DRAW_NUMBERS,
    DRAWS,
    CudaDecoderRecord,
)
from engines.onnxruntime.cuda_session import PROVIDER, load_decoder_session, load_on
from engines.onnxruntime.cuda_steps import NO_GRAPH, DecodeSteps, DeviceStep, run_options
from engines.onnxruntime.device_memory import open_memory
from engines.onnxruntime.device_work import open_work
from engines.visual_rows import VisualRows

INT32, FLOAT = np.int32, np.float32


class CudaDecoder:
    """Runs prefill chunks and decode steps, as `engines.onnxruntime.decoder.Decoder` does and says.

    A decode step runs for 1, 2, 4, 8 ... or all slots, whichever is the least that will do; each of these is captured
    into CUDA graphs here, once. Rows beyond the running sequences are computed too. Each takes the place behind what
    its slot holds: the next token of a prompt in prefill will be written over it, and nobody reads it before.

    All calls should come from one thread, the one that makes the object: ONNX Runtime captures graphs for each thread
    by itself. What they give to the device is done in their order.

    Args:
        engine_dir: the `engines/` folder of a build for the target `cuda`.
        slots: sequences that fit the cache.
        capacity: tokens that fit one slot.
        device: "cuda", or "cpu" to compute the same engine without a GPU: no graphs are captured there.
        graphs: whether to capture steps; without, the same kernels are launched one by one.

    Attributes:
        has_graphs: whether steps are captured.
        runs_ahead: whether `begin_step` returns before the step is computed, and takes tokens that are not known yet.
        candidates: the largest top_k by which a step chooses tokens; 0 where it does not.

    Raises:
        ArtifactError: there is no such engine or no GPU, its memory does not suffice, or ONNX Runtime refuses it.
    """

    def __init__(self, engine_dir: Path, slots: int, capacity: int, device: str = "cuda", *,
                 graphs: bool = True):
        self.config = EngineDescription.load(engine_dir).config
        self.slots, self.capacity = slots, capacity
        text, record = self.config.text, CudaDecoderRecord.load(engine_dir / "decoder")
        memory, work = open_memory(device), open_work(device)
        if device == "cuda":
            require_gpu_memory(record, self.config, slots, capacity)
        session = load_decoder_session(engine_dir / "decoder", device, work.stream, graphs=graphs)
        self.has_graphs = session.get_provider_options().get(PROVIDER, {}).get("enable_cuda_graph") == "1"
        self._calls = DecoderCalls(session, memory, work, DeviceCache(memory, work, record, text, slots, capacity),
                                   VisualTables(memory, record.leading_rows, text.hidden_size), text.hidden_size)
        chooses = DRAWS in self._calls.inputs
        candidates = None if chooses else load_on(device, engine_dir / "decoder" / CANDIDATES_FOLDER)
        self._logits = StepLogits(candidates, memory, slots, text.vocab_size)
        self.candidates = self._logits.count if chooses else 0
        self.runs_ahead = chooses and (self.has_graphs or device == "cpu")
        self._chunk_arrays = ChunkArrays(memory)
        self._chunk_logits, self._chunk_logit_rows = memory.allocate(4 * text.vocab_size), 1
        self._nothing_chosen = DeviceArray(np.dtype(np.int64), (1,), memory.allocate(8))
        # Read on the host. A captured step has one value for good: the longest that any sequence can be.
        self._longest_chunk, self._longest = np.zeros((), INT32), np.array(capacity, INT32)
        self._held = np.zeros(slots, INT32)  # tokens of a prompt in prefill in each slot
        self._chunk_bindings: dict[int, onnxruntime.IOBinding] = {}
        self._chunk_options = run_options(NO_GRAPH if self.has_graphs else None)
        self._steps = DecodeSteps(self._calls, self._logits, slots, self._longest, graphs=self.has_graphs,
                                  asynchronous=self.runs_ahead)

    def prefill(self, slot: int, token_ids: np.ndarray, position_ids: np.ndarray, visual_rows: VisualRows,
                start: int, logit_rows: np.ndarray) -> np.ndarray:
        """Append tokens to a slot that holds `start` tokens; see `Decoder.prefill`. Rows may be `DeviceRows`."""
        end, count = start + len(token_ids), len(logit_rows)
        self._require_fit(end)
        self._longest_chunk[...] = end
        self._held[slot] = end
        calls, binding = self._calls, self._chunk_binding(slot)
        arrays = {"token_ids": token_ids[None], "position_ids": position_ids[:, None],
                  "total_lengths": np.array([end], INT32), "logit_rows": logit_rows,
                  DRAWS: np.zeros((count, DRAW_NUMBERS))}
        calls.bind_inputs(binding, {**self._chunk_arrays.place(arrays), CHOSEN_BEFORE: self._nothing_chosen},
                          self._longest_chunk, calls.tables.of(slot, visual_rows))
        vocab_size, memory = self.config.text.vocab_size, calls.memory
        if count > self._chunk_logit_rows:
            memory.free(self._chunk_logits)
            self._chunk_logits, self._chunk_logit_rows = memory.allocate(4 * count * vocab_size), count
        binding.bind_output("logits", memory.device, 0, FLOAT, (count, vocab_size), self._chunk_logits)
        calls.session.run_with_iobinding(binding, self._chunk_options)
        logits = np.empty((count, vocab_size), FLOAT)
        memory.download(logits, self._chunk_logits)
        return logits

    def begin_step(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray,
                   draws: np.ndarray | None = None) -> DeviceStep:
        """Begin a step for the slots 0 to B-1; see `Decoder.begin_step`."""
        count = len(token_ids)
        self._require_fit(int(total_lengths.max()))
        self._calls.tables.drop_below(count)
        self._held[:count] = 0  # once one of them leaves, nobody needs what its slot holds
        return self._steps.begin(token_ids, positions, total_lengths,
                                 lambda size: np.minimum(self._held[count:size], self.capacity - 1) + 1, draws)

    def decode(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray) -> np.ndarray:
        """One token more for each of the slots 0 to B-1; see `Decoder.decode`. The next call overwrites the logits."""
        return self.begin_step(token_ids, positions, total_lengths).all()

    def move_slot(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        self._calls.cache.move(source, target, length)
        self._calls.tables.move(source, target)
        self._held[target], self._held[source] = length, 0

    def _require_fit(self, longest: int) -> None:
        if longest > self.capacity:
            raise ValueError(f"{longest} tokens do not fit a slot of {self.capacity}")

    def _chunk_binding(self, slot: int) -> onnxruntime.IOBinding:
        if slot not in self._chunk_bindings:
            self._chunk_bindings[slot] = self._calls.session.io_binding()
            self._calls.cache.bind(self._chunk_bindings[slot], slot, 1)
        return self._chunk_bindings[slot]
