"""The in-flight batcher: a thread that runs prefill chunks and decode steps for whoever is there."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from engines.batching.admission import require_room, require_valid, shutting_down
from engines.batching.answer import Answer
from engines.batching.decode_steps import DecodeSteps
from engines.batching.logit_row import HostRow
from engines.batching.prefill import Chunk, PrefillScheduler, PrefillSettings
from engines.batching.request import BatcherStats, GenerationRequest, OnOutput, Ticket
from engines.batching.sequence import Sequence
from engines.batching.slots import Slots
from engines.onnxruntime.open_decoder import StepDecoder, open_decoder
from qwen3vl.errors import Qwen3VLError
from qwen3vl.limits import Limits
from qwen3vl.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class Batcher:
    """Serves requests together; new ones join and finished or cancelled ones leave between decoder steps.

    Each turn of the loop processes chunks of prompts, as many as `PrefillScheduler` allows, then takes one decode step
    for all running requests, which `Slots` keeps in the first slots of the cache. While no prompt can be processed the
    next step may begin before that, see `DecodeSteps`.

    Args:
        engine_dir: the `engines/` folder of a build; the tokenizer is in `processor/` beside it.
        limits: prompt length, total length (a slot's capacity) and queue length.
        slots: requests served at the same time.
        prefill: how long prompts may hold up running requests.
        threads: compute threads of an engine for the CPU; by default one for each core.
        device: what runs an engine for a GPU; see `open_decoder`.

    Attributes:
        decoder: what runs; others may use it while there are no requests.

    Raises:
        ArtifactError: as `open_decoder`.
    """

    def __init__(self, engine_dir: Path, limits: Limits, slots: int, prefill: PrefillSettings | None = None,
                 threads: int | None = None, device: str = "cuda"):
        tokenizer = Tokenizer.from_checkpoint(engine_dir.parent / "processor")
        self._token_bytes, self._eos_token_ids = tokenizer.token_bytes, frozenset(tokenizer.eos_token_ids)
        self._limits = limits
        self._scheduler: PrefillScheduler[Sequence] = PrefillScheduler(prefill or PrefillSettings(), slots)
        self._counts: Counter[str] = Counter()
        # Guards scheduler, slots and counts, which this thread changes and others look at.
        self._changed = threading.Condition()
        self._closed = False
        opened: Future[StepDecoder] = Future()
        arguments = (opened, engine_dir, slots, limits.total_tokens, threads, device)
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True, args=arguments)
        self._thread.start()
        self._config = opened.result().config

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
        answer = Answer(request, on_output, ticket, self._token_bytes, self._eos_token_ids, self.decoder.capacity)
        sequence = Sequence(answer, self._config.text.vocab_size)
        with self._changed:
            if self._closed:
                raise shutting_down()
            require_room(self._scheduler.waiting, self._limits.queue)
            self._scheduler.add(sequence)
            self._changed.notify()
        return ticket

    def stats(self) -> BatcherStats:
        with self._changed:
            active = len(self._slots.running) + len(self._scheduler.started)
            return BatcherStats(active_slots=active, queued=self._scheduler.waiting, **self._counts)

    def close(self) -> None:
        """Stop the thread; requests that are not finished get an `Overloaded` error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self, opened: Future[StepDecoder], *arguments) -> None:
        """Open the decoder, then serve: CUDA graphs belong to the thread that captured them."""
        try:
            self.decoder = open_decoder(*arguments)
        except BaseException as error:
            opened.set_exception(error)
            return
        self._slots: Slots[Sequence] = Slots(self.decoder.slots, self.decoder.move_slot)
        self._steps = DecodeSteps(self.decoder)
        opened.set_result(self.decoder)
        self._loop()

    def _loop(self) -> None:
        step_seconds = turn_seconds = 0.0
        while True:
            with self._changed:
                while not (self._closed or self._scheduler.prompts or self._slots.running):
                    self._changed.wait()
                if self._closed:
                    break
            try:
                self._drop_cancelled()
                if self._steps.is_ahead and self._has_prompt():
                    step_seconds = self._decode()  # or chunks would wait for that step, and seem to take as long
                began = time.perf_counter()
                self._prefill(step_seconds, turn_seconds)
                step_seconds = self._decode()
                turn_seconds = time.perf_counter() - began
            except Exception as error:
                log.exception("a decoder step failed")
                self._steps = DecodeSteps(self.decoder)
                self._fail(Qwen3VLError(f"the decoder failed: {error}"))
        self._fail(shutting_down(), queued=True)

    def _prefill(self, step_seconds: float, turn_seconds: float) -> None:
        self._scheduler.begin_turn(step_seconds, turn_seconds)
        while chunk := self._next_chunk():
            sequence, began = chunk.prompt, time.perf_counter()
            try:
                logits = self._run_chunk(chunk)
            except Exception as error:
                log.exception("a prefill chunk failed")
                self._fail_prompt(sequence, Qwen3VLError(f"the decoder failed on this prompt: {error}"))
                continue
            with self._changed:
                self._scheduler.ran(chunk, time.perf_counter() - began)
            if not sequence.remaining:
                self._start_decoding(sequence, logits[0])

    def _next_chunk(self) -> Chunk[Sequence] | None:
        with self._changed:
            chunk = self._scheduler.next_chunk(len(self._slots.running))
            if chunk and chunk.prompt.slot < 0:
                self._slots.place(chunk.prompt, self._scheduler.started)
        return chunk

    def _run_chunk(self, chunk: Chunk[Sequence]) -> np.ndarray:
        """Append the next tokens of a prompt. Returns the last one's logits [1, V], or [0, V] while there are more."""
        sequence, request, start = chunk.prompt, chunk.prompt.request, chunk.prompt.cached
        end = start + chunk.tokens
        last = np.array([chunk.tokens - 1] if end == len(request.token_ids) else [], np.int32)
        logits = self.decoder.prefill(sequence.slot, request.token_ids[start:end], request.position_ids[:, start:end],
                                       request.visual_rows, start, last)
        sequence.cached = end
        self._count(prompt_tokens=chunk.tokens)
        return logits

    def _has_prompt(self) -> bool:
        """Whether a prompt could be processed now."""
        with self._changed:
            return self._scheduler.has_next(len(self._slots.running))

    def _start_decoding(self, sequence: Sequence, logits: np.ndarray) -> None:
        with self._changed:
            self._slots.start(sequence, self._scheduler.started)
            self._scheduler.remove(sequence)
        self._count(generated_tokens=1)
        sequence.last_token = sequence.sampler.choose(HostRow(logits))
        self._send(sequence)

    def _decode(self) -> float:
        """One token more for all running requests. Returns the seconds that it took, 0 if there are none."""
        if not self._slots.running:
            self._steps.forget()
            return 0.0
        taken = self._steps.take(self._slots.running, ahead=not self._has_prompt())
        began = time.perf_counter()
        self._count(decode_steps=1, generated_tokens=len(taken.sequences))
        for sequence in taken.sequences:
            self._send(sequence)
        return taken.seconds if self._steps.is_ahead else taken.seconds + time.perf_counter() - began

    def _send(self, sequence: Sequence) -> None:
        """Send its newest token; a sequence that ends with it leaves."""
        reason = sequence.answer.accept(sequence.last_token)
        if reason:
            with self._changed:
                self._slots.leave(sequence)
            self._count(finished=1)
            sequence.answer.finish(reason)

    def _drop_cancelled(self) -> None:
        with self._changed:
            prompts = [s for s in self._scheduler.prompts if s.ticket.cancelled]
            running = [s for s in self._slots.running if s.ticket.cancelled]
            for sequence in prompts:
                self._scheduler.remove(sequence)
            for sequence in running:
                self._slots.leave(sequence)
        self._count(cancelled=len(prompts) + len(running))
        for sequence in prompts + running:
            sequence.answer.finish("cancelled")

    def _fail_prompt(self, sequence: Sequence, error: Exception) -> None:
        with self._changed:
            self._scheduler.remove(sequence)
        self._count(failed=1)
        sequence.answer.fail(error)

    def _fail(self, error: Exception, queued: bool = False) -> None:
        """Give up all requests that have a slot and, if wanted, those that wait for one."""
        with self._changed:
            prompts = list(self._scheduler.prompts if queued else self._scheduler.started)
            failed = [*self._slots.running, *prompts]
            self._slots.running.clear()
            for sequence in prompts:
                self._scheduler.remove(sequence)
        self._count(failed=len(failed))
        for sequence in failed:
            sequence.answer.fail(error)

    def _count(self, **increments: int) -> None:
        with self._changed:
            self._counts.update(increments)
