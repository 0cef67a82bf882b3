"""The executor: requests in, responses out, a thread that runs steps over whoever is active."""

from __future__ import annotations

import datetime
import json
import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engines.batching.sampler import Sampler
from qwen3vl.sampling import SamplingParams
from tests.engines.trtllm.executor_standin.model import EngineModel, SequenceCache
from tests.engines.trtllm.executor_standin.prompt_table import PromptTable
from tests.engines.trtllm.executor_standin.values import (
    CapacitySchedulerPolicy,
    ExecutorConfig,
    FinishReason,
    ModelType,
    Request,
    Response,
    Result,
)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class EngineFile:
    """What a `rank0.engine` of the stand-in holds, as JSON; sizes as in TensorRT-LLM's BuildConfig."""

    checkpoint: str
    dtype: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_prompt_embedding_table_size: int
    tokens_per_block: int = 8
    blocks: int = 4096

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(vars(self)))


class _Active:
    """A request in the batch."""

    def __init__(self, request_id: int, request: Request, engine: EngineFile, model: EngineModel, reuse: bool) -> None:
        self.id, self.request, self.tokens = request_id, request, list(request.input_token_ids)
        self.prompt, self.sent = len(self.tokens), len(self.tokens)
        self.max_tokens = min(request.max_tokens, engine.max_seq_len - self.prompt)
        self.reason, self.cache, self.started, self.logits = FinishReason.NOT_FINISHED, SequenceCache(), False, []
        tuning = request.prompt_tuning_config
        self.table = tuning.embedding_table if tuning else None
        self.extra_ids = tuning.input_token_extra_ids if tuning else None
        if self.prompt > engine.max_input_len:
            raise RuntimeError(f"Prompt length ({self.prompt}) exceeds maximum input length ({engine.max_input_len}).")
        if self.table is not None:
            assert self.table.ndim == 2
            if reuse and self.extra_ids is None:
                raise RuntimeError("Input token extra ids must be provided when enabling kv cache reuse")
        self.extra_ids = self.extra_ids or [0] * self.prompt
        if len(self.extra_ids) != self.prompt:
            raise RuntimeError("inputTokenExtraIds vector size must be the same as input token vector size")
        sampling = request.sampling_config
        params = SamplingParams(
            temperature=0.0 if sampling.top_k == 1 else sampling.temperature or 1.0, top_p=sampling.top_p or 1.0,
            top_k=sampling.top_k or 0, seed=(sampling.seed or 0) % 2**63,
            repetition_penalty=sampling.repetition_penalty or 1.0)
        self.sampler = Sampler(params, np.array(self.tokens), model.config.vocab_size)

    @property
    def in_context(self) -> bool:
        return self.cache.length < self.prompt

    @property
    def finished(self) -> bool:
        return self.reason is not FinishReason.NOT_FINISHED

    def unique_tokens(self, end: int) -> tuple:
        return tuple(zip(self.tokens[:end], self.extra_ids[:end], strict=True))

    def accept(self, logits: torch.Tensor) -> None:
        token = self.sampler.sample(logits.numpy())
        if token == self.request.end_id:
            self.reason = FinishReason.END_ID
            return
        self.tokens.append(token)
        if any(self.tokens[-len(word) :] == word for word in self.request.stop_words or []):
            self.reason = FinishReason.STOP_WORDS
        elif len(self.tokens) - self.prompt >= self.max_tokens:
            self.reason = FinishReason.LENGTH

    def response(self) -> Response | None:
        start = self.sent if self.request.streaming else self.prompt
        new = self.tokens[start:]
        if not self.finished and not (self.request.streaming and new):
            return None
        self.sent = len(self.tokens)
        logits = torch.cat(self.logits) if self.logits and self.finished else None
        return Response(self.id, Result(new, self.finished, self.reason, logits))


class Executor:
    """Attributes:
        fault: called before each step, to make it fail.
        reused: prompt tokens whose keys and values were there already.
        most_active: most requests in one step.
        cancellations: how often a request was to be cancelled.
    """

    def __init__(self, model_path: Path, model_type: ModelType, executor_config: ExecutorConfig) -> None:
        assert model_type is ModelType.DECODER_ONLY
        assert executor_config.scheduler_config.capacity_scheduler_policy is CapacitySchedulerPolicy.GUARANTEED_NO_EVICT
        self.config = executor_config
        self.engine = EngineFile(**json.loads((Path(model_path) / "rank0.engine").read_text()))
        self.model = EngineModel(Path(self.engine.checkpoint))
        text = self.model.config
        self._table = PromptTable(self.engine.max_prompt_embedding_table_size, self.engine.max_batch_size,
                                  text.hidden_size, DTYPES[self.engine.dtype])
        self._rotary_size = self.engine.max_seq_len * text.head_dim
        self._reuse = bool(executor_config.kv_cache_config.enable_block_reuse)
        self._stored: dict[tuple, SequenceCache] = {}
        self.fault, self.reused, self.most_active, self.cancellations = lambda: None, 0, 0, 0
        self._queued: deque[tuple[int, Request]] = deque()
        self._cancelled: set[int] = set()
        self._responses: dict[int, list[Response]] = {}
        self._last_id = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="stand-in", daemon=True)
        self._thread.start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No step ends meanwhile."""
        gate = threading.Event()
        self.fault = gate.wait
        try:
            yield
        finally:
            self.fault = lambda: None
            gate.set()

    def can_enqueue_requests(self) -> bool:
        return not self._stopping

    def enqueue_request(self, request: Request) -> int:
        with self._changed:
            self._require_running()
            self._last_id += 1
            self._queued.append((self._last_id, request))
            self._changed.notify_all()
            return self._last_id

    def await_responses(self, timeout: datetime.timedelta | None = None) -> list[Response]:
        assert timeout is None or isinstance(timeout, datetime.timedelta)
        with self._changed:
            self._require_running()
            self._changed.wait_for(lambda: self._responses or self._stopping, timeout and timeout.total_seconds())
            responses = [response for _, found in sorted(self._responses.items()) for response in found]
            self._responses.clear()
            return responses

    def cancel_request(self, id: int) -> None:
        with self._changed:
            self._require_running()
            self._cancelled.add(id)
            self.cancellations += 1

    def shutdown(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _require_running(self) -> None:
        if self._stopping:
            raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: Shutdown called")

    def _loop(self) -> None:
        active: list[_Active] = []
        while True:
            self._step(active)
            self._end_cancelled(active)
            for request in active:
                if response := request.response():
                    self._respond(response)
            active[:] = [request for request in active if not request.finished]
            self._fetch(active)
            if not active and self._stopping:
                return

    def _respond(self, response: Response) -> None:
        with self._changed:
            self._responses.setdefault(response.request_id, []).append(response)
            self._changed.notify_all()

    def _end_cancelled(self, active: list[_Active]) -> None:
        with self._changed:
            for request in active:
                if request.id in self._cancelled:
                    self._cancelled.discard(request.id)
                    request.reason = FinishReason.CANCELLED
                    del request.tokens[request.sent :]

    def _fetch(self, active: list[_Active]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: active or self._queued or self._stopping)
            room = self.engine.max_batch_size - len(active)
            fetched = [self._queued.popleft() for _ in range(min(room, len(self._queued)))]
        for request_id, request in fetched:
            try:
                active.append(_Active(request_id, request, self.engine, self.model, self._reuse))
            except Exception as error:
                self._respond(Response(request_id, error=f"Encountered an error when fetching new request: {error}"))

    def _step(self, active: list[_Active]) -> None:
        """One step for the requests that fit; an error ends all of them."""
        try:
            scheduled = self._scheduled(active)
            if not scheduled:
                return
            self.fault()
            self.most_active = max(self.most_active, len(scheduled))
            self._table.fill([request.table for request, _ in scheduled])
            for task, (request, tokens) in enumerate(scheduled):
                self._run(request, task, tokens)
        except Exception as error:
            for request in active:
                self._respond(Response(request.id, error=f"Encountered an error in forwardAsync function: {error}"))
            active.clear()

    def _scheduled(self, active: list[_Active]) -> list[tuple[_Active, int]]:
        """Requests and how many tokens of each: prompts first, then one generated token each."""
        free = self.engine.blocks - sum(self._blocks(request) for request in active if request.started)
        budget = self.config.max_num_tokens or self.engine.max_num_tokens
        budget -= sum(request.started and not request.in_context for request in active)
        context, generation = [], []
        for request in active:
            if not request.started:
                if self._blocks(request) > free:
                    break  # it waits, and those behind it
                free -= self._blocks(request)
                self._start(request)
            if not request.in_context:
                generation.append((request, 1))
            elif budget > 0:
                tokens = min(request.prompt - request.cache.length, budget)
                if tokens < request.prompt - request.cache.length:
                    tokens -= tokens % self.engine.tokens_per_block
                budget -= tokens
                context += [(request, tokens)] if tokens else []
        return context + generation

    def _blocks(self, request: _Active) -> int:
        return math.ceil((request.prompt + request.max_tokens) / self.engine.tokens_per_block)

    def _start(self, request: _Active) -> None:
        request.started = True
        size = self.engine.tokens_per_block
        for end in range((request.prompt - 1) // size * size, 0, -size) if self._reuse else ():
            if stored := self._stored.get(request.unique_tokens(end)):
                request.cache = stored.prefix(end)
                self.reused += end
                return

    def _run(self, request: _Active, task: int, count: int) -> None:
        start, prompt = request.cache.length, request.in_context
        ids = torch.tensor(request.tokens[start : start + count])
        if request.request.mrope_config is None:
            raise RuntimeError("bad optional access")
        rotary = request.request.mrope_config.mrope_rotary_cos_sin
        if rotary.shape[0] != self._rotary_size or rotary.dtype != torch.float32:
            raise RuntimeError(f"Provided MropeRotarySinCos is {rotary.shape[0]} and expected is {self._rotary_size}.")
        if prompt:
            rows = rotary.view(self.engine.max_seq_len, -1, 2)[start : start + count]
        else:
            rows = self.model.generation_rotary(start + request.request.mrope_config.mrope_position_deltas)
        packed = self._table.packed_ids(ids, task, self.model.config.vocab_size)
        logits = self.model.run(packed, self._table.rows, rows, request.cache)
        if prompt and request.request.output_config.return_context_logits:
            request.logits.append(logits)
        if not request.in_context:
            if prompt and self._reuse:
                self._store(request)
            request.accept(logits[-1])

    def _store(self, request: _Active) -> None:
        size = self.engine.tokens_per_block
        for end in range(size, request.prompt // size * size + 1, size):
            self._stored.setdefault(request.unique_tokens(end), request.cache.prefix(end))
