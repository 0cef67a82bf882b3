"""The decoder on ONNX Runtime, over a slotted key-value cache that it extends in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engines.batching.logit_row import HostRow
from engines.batching.step import FinishedStep
from engines.description import EngineDescription
from engines.onnxruntime.session import load_engine, session_options

# A step is a thousand short operators: waking threads for each would take a third of its time.
SPIN_MICROSECONDS = 50
# Attention holds a prompt's scores in full: 4 bytes for each head, token and place in the slot. Longer chunks are cut.
SCORE_BYTES = 1 << 30
LEAST_TOKENS = 32


class Decoder:
    """Runs prefill chunks and decode steps. Not thread-safe: one owner calls it.

    The cache has one slot a sequence. A decode step covers the slots 0 to B-1, so running sequences are kept in
    the first slots (`move_slot`).

    Args:
        engine_dir: the `engines/` folder of a build.
        slots: sequences that fit the cache.
        capacity: tokens that fit one slot.
        threads: compute threads; by default one for each core.
    """

    runs_ahead, candidates = False, 0

    def __init__(self, engine_dir: Path, slots: int, capacity: int, threads: int | None = None):
        self.config = EngineDescription.load(engine_dir).config
        self.slots, self.capacity = slots, capacity
        self._session = load_engine(engine_dir, "decoder", session_options(threads, SPIN_MICROSECONDS))
        text = self.config.text
        shape = (slots, text.num_key_value_heads, capacity, text.head_dim)
        self._dtype = _element_type(self._session, "visual_rows")
        # np.zeros maps pages lazily: a slot takes memory as its sequence grows.
        self._cache = {f"{part}.{layer}": np.zeros(shape, self._dtype)
                       for layer in range(text.num_hidden_layers) for part in ("key", "value")}
        self._no_rows = np.empty((0, text.hidden_size), self._dtype)
        self._bindings: dict[tuple[int, int], object] = {}
        self._piece = max(LEAST_TOKENS, SCORE_BYTES // (4 * text.num_attention_heads * capacity))

    def prefill(self, slot: int, token_ids: np.ndarray, position_ids: np.ndarray, visual_rows: np.ndarray,
                start: int, logit_rows: np.ndarray) -> np.ndarray:
        """Append tokens to a slot that holds `start` tokens.

        Args:
            token_ids: int32 [S]; visual tokens by the ids that say where in `visual_rows` their rows are.
            position_ids: int32 [3, S].
            visual_rows: float [R, hidden], the request's table.
            start: tokens already in the slot.
            logit_rows: int32 [N], the positions 0 to S-1 to give logits for.

        Returns:
            float32 [N, vocab_size].
        """
        logits = np.empty((len(logit_rows), self.config.text.vocab_size), np.float32)
        for begin in range(0, len(token_ids), self._piece):
            part = slice(begin, min(begin + self._piece, len(token_ids)))
            total = np.array([start + part.stop], np.int32)
            wanted = (logit_rows >= part.start) & (logit_rows < part.stop)
            logits[wanted] = self._run((slot, slot + 1), token_ids[None, part], position_ids[:, None, part],
                                       visual_rows, total, logit_rows[wanted] - begin)
        return logits

    def decode(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray) -> np.ndarray:
        """One token more for each of the slots 0 to B-1.

        Args:
            token_ids: int32 [B], the last token of each sequence.
            positions: int32 [B], its position (all three axes are equal for generated text).
            total_lengths: int32 [B], tokens in each slot after this step.

        Returns:
            float32 [B, vocab_size].
        """
        count = len(token_ids)
        position_ids = np.broadcast_to(positions[None, :, None], (3, count, 1))
        return self._run((0, count), token_ids[:, None], position_ids, self._no_rows, total_lengths,
                         np.arange(count, dtype=np.int32))

    def begin_step(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray,
                   draws: np.ndarray | None = None) -> FinishedStep:
        """As `decode`, for decoders that compute while whoever runs them goes on; this one does not.

        Args:
            token_ids: where the decoder runs ahead, -1 - i is for the token that the step before chooses in row i.
            draws: how it chooses, float64 [B, 4]: temperature, top_k, top_p, and a random number from 0 to 1; top_k
                from 1 to `candidates` where the temperature is not 0. None for the likeliest tokens.
        """
        return FinishedStep([HostRow(row) for row in self.decode(token_ids, positions, total_lengths)])

    def move_slot(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        for array in self._cache.values():
            array[target, :, :length] = array[source, :, :length]

    def _run(self, slots: tuple[int, int], token_ids: np.ndarray, position_ids: np.ndarray, visual_rows: np.ndarray,
             total_lengths: np.ndarray, logit_rows: np.ndarray) -> np.ndarray:
        if (longest := int(total_lengths.max())) > self.capacity:
            raise ValueError(f"{longest} tokens do not fit a slot of {self.capacity}")
        feeds = {"token_ids": token_ids, "position_ids": position_ids, "total_lengths": total_lengths,
                 "max_total_length": np.array(longest), "logit_rows": logit_rows}
        arrays = {name: np.ascontiguousarray(value, np.int32) for name, value in feeds.items()}
        arrays["max_total_length"] = arrays["max_total_length"].reshape(())
        arrays["visual_rows"] = np.ascontiguousarray(visual_rows, self._dtype)
        logits = np.empty((len(logit_rows), self.config.text.vocab_size), np.float32)
        binding = self._binding(slots)
        for name, array in arrays.items():
            _bind(binding.bind_input, name, array)
        _bind(binding.bind_output, "logits", logits)
        self._session.run_with_iobinding(binding)
        return logits

    def _binding(self, slots: tuple[int, int]):
        """The binding of these slots' cache as past and, the same memory, as present; made once."""
        if slots not in self._bindings:
            binding = self._session.io_binding()
            for name, array in self._cache.items():
                part = array[slots[0] : slots[1]]
                _bind(binding.bind_input, f"past_{name}", part)
                _bind(binding.bind_output, f"present_{name}", part)
            self._bindings[slots] = binding
        return self._bindings[slots]


def _bind(bind, name: str, array: np.ndarray) -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _element_type(session, name: str) -> np.dtype:
    kinds = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}
    return kinds[next(item.type for item in session.get_inputs() if item.name == name)]
