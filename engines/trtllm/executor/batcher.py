"""Requests to TensorRT-LLM's executor, which batches in flight, and their answers back."""

from __future__ import annotations

import datetime
import logging
import threading
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING

from engines.batching.admission import require_room, require_valid, shutting_down
from engines.batching.answer import Answer
from engines.batching.request import BatcherStats, GenerationRequest, OnOutput, Ticket
from engines.capacity import Capacity
from engines.description import EngineDescription
from engines.trtllm.executor.request import RequestBuilder
from engines.trtllm.executor.running import Running
from engines.trtllm.executor.start import ExecutorOptions, start_executor
from engines.trtllm.record import FOLDER, TrtllmRecord
from qwen3vl.errors import Qwen3VLError
from qwen3vl.limits import Limits
from qwen3vl.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorrt_llm.bindings.executor as trtllm

log = logging.getLogger(__name__)

# How soon a cancelled request is noticed while no tokens come.
POLL = datetime.timedelta(milliseconds=20)


class ExecutorBatcher:
    """Serves requests first come, first served, like `engines.batching.batcher.Batcher`, on an engine of TensorRT-LLM.

    The executor gets no more requests than run at the same time; the others wait here, where they take no memory for
    tables, can be cancelled at once and are counted. One thread prepares and hands over requests, one receives tokens.

    Args:
        engine_dir: the `engines/` folder of a build; the tokenizer is in `processor/` beside it.
        limits: prompt length, total length and queue length.
        slots: requests served at the same time.
        options: how the engine is run.

    Raises:
        ArtifactError: the engines do not fit the limits, or cannot be loaded.
    """

    def __init__(self, engine_dir: Path, limits: Limits, slots: int, options: ExecutorOptions):
        tokenizer = Tokenizer.from_checkpoint(engine_dir.parent / "processor")
        self._token_bytes, self._eos_token_ids = tokenizer.token_bytes, tokenizer.eos_token_ids
        self._config = EngineDescription.load(engine_dir).config
        folder = engine_dir.parent / FOLDER
        record = TrtllmRecord.load(folder)
        Capacity.of(engine_dir).require(limits, slots)
        self._limits, self._slots = limits, slots
        self._builder = RequestBuilder(record, self._config, tokenizer.eos_token_ids)
        self._executor: trtllm.Executor = start_executor(folder, record, options)
        self._waiting: deque[Answer] = deque()
        self._starting: Answer | None = None
        self._running: dict[int, Running] = {}  # the feeder enters, the receiver removes
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=loop, name=f"executor-{loop.__name__.strip('_')}", daemon=True)
                         for loop in (self._feed, self._receive)]
        for thread in self._threads:
            thread.start()

    def submit(self, request: GenerationRequest, on_output: OnOutput) -> Ticket:
        """Queue a request; as `Batcher.submit`, `on_output` is called from threads of this batcher.

        Raises:
            InvalidRequest: the request does not fit the model, the engine or the limits.
            Overloaded: the queue is full.
        """
        require_valid(request, self._config, self._limits)
        self._builder.require_valid(request)
        ticket = Ticket()
        answer = Answer(request, on_output, ticket, self._token_bytes, self._eos_token_ids, self._limits.total_tokens)
        with self._changed:
            if self._closed:
                raise shutting_down()
            require_room(len(self._waiting), self._limits.queue)
            self._waiting.append(answer)
            self._changed.notify_all()
        return ticket

    def stats(self) -> BatcherStats:
        """`decode_steps` stays 0: the executor's steps are its own."""
        with self._changed:
            active = sum(not running.ended for running in self._running.values()) + (self._starting is not None)
            return BatcherStats(active_slots=active, queued=len(self._waiting), **self._counts)

    def close(self) -> None:
        """Stop the executor; requests that are not finished get an `Overloaded` error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._executor.shutdown()

    def _feed(self) -> None:
        while (answer := self._next_waiting()) is not None:
            try:
                self._hand_over(answer)
            except Exception as error:
                log.exception("a request could not be handed over")
                self._count(failed=1)
                answer.fail(Qwen3VLError(f"the decoder failed on this prompt: {error}"))

    def _next_waiting(self) -> Answer | None:
        """Wait until the first waiting request can run; None when closed."""
        with self._changed:
            self._starting = None
            self._changed.wait_for(lambda: self._closed or (self._waiting and len(self._running) < self._slots))
            if self._closed:
                return None
            self._starting = self._waiting.popleft()
            return self._starting

    def _hand_over(self, answer: Answer) -> None:
        request = self._builder.build(answer.request, answer.max_tokens)
        with self._changed:
            closed = self._closed
            if not closed:
                # Entered under the lock: the receiver cannot look up the first response before.
                request_id = self._executor.enqueue_request(request)
                self._running[request_id] = Running(answer, self._eos_token_ids[0], self._count)
                self._starting = None
                self._changed.notify_all()
        if closed:
            self._count(failed=1)
            answer.fail(shutting_down())

    def _receive(self) -> None:
        while self._wait_for_running():
            try:
                for response in self._executor.await_responses(timeout=POLL):
                    self._take(response)
                self._drop_cancelled()
            except Exception as error:
                log.exception("the executor failed")
                self._fail_running(Qwen3VLError(f"the decoder failed: {error}"))
        for request_id in self._running:
            self._cancel(request_id)  # or the executor would answer them before it stops
        self._fail_running(shutting_down())
        self._count(failed=len(self._waiting))
        for answer in self._waiting:
            answer.fail(shutting_down())
        self._waiting.clear()

    def _wait_for_running(self) -> bool:
        """Wait until the executor has a request; False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._running)
            return not self._closed

    def _take(self, response: trtllm.Response) -> None:
        with self._changed:
            running = self._running.get(response.request_id)
        if running is None:
            return  # failed before
        running.take(response)
        if running.final:
            self._remove(response.request_id)
        elif running.ended:
            self._cancel(response.request_id)

    def _drop_cancelled(self) -> None:
        with self._changed:
            dropped = [answer for answer in self._waiting if answer.ticket.cancelled]
            self._waiting = deque(answer for answer in self._waiting if not answer.ticket.cancelled)
            unwanted = [request_id for request_id, running in self._running.items() if running.answer.ticket.cancelled]
        for request_id in unwanted:
            self._cancel(request_id)
        self._count(cancelled=len(dropped))
        for answer in dropped:
            answer.finish("cancelled")

    def _cancel(self, request_id: int) -> None:
        """Tell the executor to stop a request, once; it answers with a last response."""
        running = self._running[request_id]
        if not running.cancelling:
            running.cancelling = True
            self._executor.cancel_request(request_id)

    def _remove(self, request_id: int) -> None:
        with self._changed:
            del self._running[request_id]
            self._changed.notify_all()

    def _fail_running(self, error: Exception) -> None:
        with self._changed:
            failed = list(self._running.values())
            self._running.clear()
            self._changed.notify_all()
        for running in failed:
            running.fail(error)

    def _count(self, **increments: int) -> None:
        with self._changed:
            self._counts.update(increments)
