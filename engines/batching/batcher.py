"""The in-flight batcher: a thread that runs prefill chunks and decode steps for whoever is there."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from pathlib import Path

import numpy as np

from engines.batching.admission import require_room, require_valid, shutting_down
from engines.batching.answer import Answer
from engines.batching.request import BatcherStats, GenerationRequest, OnOutput, Ticket
from engines.batching.sequence import Sequence
from engines.onnxruntime.decoder import Decoder
from qwen3vl.errors import Qwen3VLError
from qwen3vl.limits import Limits
from qwen3vl.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class Batcher:
    """Serves requests first come, first served; new ones join and finished or cancelled ones leave between steps.

    Each turn of the loop prefills at most `prefill_tokens` tokens of waiting prompts, then takes one decode step for
    all running requests: long prompts delay running answers by one chunk at a time, never by a whole prompt.
    Running sequences occupy the first slots of the cache, so that a step covers exactly them.

    Args:
        engine_dir: the `engines/` folder of a build; the tokenizer is in `processor/` beside it.
        limits: prompt length, total length (a slot's capacity) and queue length.
        slots: requests served at the same time.
        prefill_tokens: prompt tokens between two decode steps.
        threads: compute threads of the engine; by default one for each core.
    """

    def __init__(self, engine_dir: Path, limits: Limits, slots: int, prefill_tokens: int = 256,
                 threads: int | None = None):
        tokenizer = Tokenizer.from_checkpoint(engine_dir.parent / "processor")
        self._token_bytes, self._eos_token_ids = tokenizer.token_bytes, frozenset(tokenizer.eos_token_ids)
        self._decoder = Decoder(engine_dir, slots, limits.total_tokens, threads)
        self._config = self._decoder.config
        self._limits, self._prefill_tokens = limits, prefill_tokens
        self._waiting: deque[Sequence] = deque()
        self._prefilling: Sequence | None = None
        self._running: list[Sequence] = []
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, on_output: OnOutput) -> Ticket:
        """Queue a request.

        Args:
            request: the prepared prompt.
            on_output: called from the batcher's thread with each `Emission`, the last of which has a finish reason,
                or with an exception, after which nothing comes. It must return quickly.

        Raises:
            InvalidRequest: the request does not fit the model or the limits.
            Overloaded: the queue is full.
        """
        require_valid(request, self._config, self._limits)
        ticket = Ticket()
        answer = Answer(request, on_output, ticket, self._token_bytes, self._eos_token_ids, self._decoder.capacity)
        sequence = Sequence(answer, self._config.text.vocab_size)
        with self._changed:
            if self._closed:
                raise shutting_down()
            require_room(len(self._waiting), self._limits)
            self._waiting.append(sequence)
            self._changed.notify()
        return ticket

    def stats(self) -> BatcherStats:
        with self._changed:
            active = len(self._running) + (self._prefilling is not None)
            return BatcherStats(active_slots=active, queued=len(self._waiting), **self._counts)

    def close(self) -> None:
        """Stop the thread; requests that are not finished get an `Overloaded` error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._waiting or self._prefilling or self._running):
                    self._changed.wait()
                if self._closed:
                    break
            try:
                self._drop_cancelled()
                self._prefill()
                self._decode()
            except Exception as error:
                log.exception("a decoder step failed")
                self._fail_active(Qwen3VLError(f"the decoder failed: {error}"))
        self._fail_active(shutting_down(), queued=True)

    def _prefill(self) -> None:
        budget = self._prefill_tokens
        while budget > 0 and (sequence := self._prefilling or self._admit()):
            start = sequence.cached
            try:
                logits = self._prefill_chunk(sequence, budget)
            except Exception as error:
                log.exception("a prefill chunk failed")
                self._abandon_prefill(Qwen3VLError(f"the decoder failed on this prompt: {error}"))
                continue
            budget -= sequence.cached - start
            if sequence.prefilled:
                self._start_decoding(sequence, logits[0])

    def _prefill_chunk(self, sequence: Sequence, budget: int) -> np.ndarray:
        """Append up to `budget` prompt tokens. Returns the last one's logits [1, V], or [0, V] while there are more."""
        request, start = sequence.request, sequence.cached
        end = min(start + budget, len(request.token_ids))
        last = np.array([end - start - 1] if end == len(request.token_ids) else [], np.int32)
        logits = self._decoder.prefill(sequence.slot, request.token_ids[start:end], request.position_ids[:, start:end],
                                       request.visual_rows, start, last)
        sequence.cached = end
        self._count(prompt_tokens=end - start)
        return logits

    def _admit(self) -> Sequence | None:
        """Give the first waiting request the first slot after the running ones."""
        with self._changed:
            if not self._waiting or len(self._running) >= self._decoder.slots:
                return None
            self._prefilling = self._waiting.popleft()
        self._prefilling.slot = len(self._running)
        return self._prefilling

    def _start_decoding(self, sequence: Sequence, logits: np.ndarray) -> None:
        # Running requests may have left while this one was prefilled.
        if sequence.slot != len(self._running):
            self._decoder.move_slot(sequence.slot, len(self._running), sequence.cached)
            sequence.slot = len(self._running)
        with self._changed:
            self._prefilling = None
            self._running.append(sequence)
        self._accept(sequence, logits)

    def _decode(self) -> None:
        if not self._running:
            return
        running = list(self._running)
        tokens, positions, lengths = (np.array(values, np.int32) for values in zip(
            *((s.last_token, s.next_position, s.cached + 1) for s in running), strict=True))
        logits = self._decoder.decode(tokens, positions, lengths)
        self._count(decode_steps=1)
        for sequence in running:  # All of them first: one that leaves moves another, with all that it has cached.
            sequence.cached += 1
        for sequence, row in zip(running, logits, strict=True):
            self._accept(sequence, row)

    def _accept(self, sequence: Sequence, logits: np.ndarray) -> None:
        reason = sequence.accept(logits)
        self._count(generated_tokens=1)
        if reason:
            self._leave(sequence)
            self._count(finished=1)
            sequence.answer.finish(reason)

    def _leave(self, sequence: Sequence) -> None:
        """Free a running request's slot; the last running one moves into it."""
        with self._changed:
            last = self._running.pop()
            if last is not sequence:
                self._running[sequence.slot] = last
        if last is not sequence:
            self._decoder.move_slot(last.slot, sequence.slot, last.cached)
            last.slot = sequence.slot

    def _drop_cancelled(self) -> None:
        with self._changed:
            dropped = [s for s in self._waiting if s.ticket.cancelled]
            self._waiting = deque(s for s in self._waiting if not s.ticket.cancelled)
            if self._prefilling and self._prefilling.ticket.cancelled:
                dropped.append(self._prefilling)
                self._prefilling = None
        for sequence in [s for s in self._running if s.ticket.cancelled]:
            self._leave(sequence)
            dropped.append(sequence)
        self._count(cancelled=len(dropped))
        for sequence in dropped:
            sequence.answer.finish("cancelled")

    def _abandon_prefill(self, error: Exception) -> None:
        with self._changed:
            sequence, self._prefilling = self._prefilling, None
        self._count(failed=1)
        sequence.answer.fail(error)

    def _fail_active(self, error: Exception, queued: bool = False) -> None:
        with self._changed:
            failed = [*self._running, *filter(None, [self._prefilling])]
            self._running, self._prefilling = [], None
            if queued:
                failed += self._waiting
                self._waiting.clear()
        self._count(failed=len(failed))
        for sequence in failed:
            sequence.answer.fail(error)

    def _count(self, **increments: int) -> None:
        with self._changed:
            self._counts.update(increments)
