"""The engine as `engines.fidelity` checks it: one request at a time, with the logits of its prompt."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.batching.request import GenerationRequest
from engines.description import EngineDescription
from engines.trtllm.executor.request import RequestBuilder
from engines.trtllm.executor.start import ExecutorOptions, start_executor
from engines.trtllm.record import FOLDER, RECORD_FILE, TrtllmRecord
from qwen3vl.errors import ArtifactError
from qwen3vl.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorrt_llm.bindings.executor as trtllm

WAIT = datetime.timedelta(seconds=1)


class TrtllmDecoder:
    """A `CheckedDecoder` on TensorRT-LLM's executor, without reuse of its cache.

    Args:
        build: the build folder.

    Raises:
        ArtifactError: the engine was not built to give logits of prompt tokens.
    """

    # Chunks are whole blocks of the cache, which have 32 tokens, in older versions 64 (tensorrt_llm/plugin/plugin.py).
    chunk_tokens = 64

    def __init__(self, build: Path):
        self._folder = build / FOLDER
        self._record = TrtllmRecord.load(self._folder)
        if not self._record.context_logits:
            raise ArtifactError(f"{self._folder / RECORD_FILE}: the engine gives no logits of prompt tokens: to check "
                                "it, build it with `qwen3vl build --target trtllm --context-logits`")
        self._eos_token_ids = Tokenizer.from_checkpoint(build / "processor").eos_token_ids
        self._builder = RequestBuilder(self._record, EngineDescription.load(build / "engines").config,
                                       self._eos_token_ids)
        self._executor: trtllm.Executor | None = None
        self._chunked = False

    def prefill(self, request: GenerationRequest, chunked: bool = False) -> np.ndarray:
        """Logits of the prompt, float32 [S, V]."""
        _, last = self._run(request, 1, chunked, context_logits=True)
        return last.context_logits.float().numpy()[:, : self._record.vocab_size]

    def greedy(self, request: GenerationRequest) -> list[int]:
        """At most `request.sampling.max_tokens` tokens, an end token not among them."""
        tokens, _ = self._run(request, request.sampling.max_tokens, chunked=False)
        return [token for token in tokens if token not in self._eos_token_ids]

    def close(self) -> None:
        """Free the engine."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _run(self, request: GenerationRequest, max_tokens: int, chunked: bool,
             context_logits: bool = False) -> tuple[list[int], trtllm.Result]:
        """All tokens of a request, and its last result."""
        executor = self._started(chunked)
        self._builder.require_valid(request)
        executor.enqueue_request(self._builder.build(request, max_tokens, context_logits))
        tokens: list[int] = []
        while True:
            for response in executor.await_responses(timeout=WAIT):
                if response.has_error():
                    raise ArtifactError(f"the engine in {self._folder} failed on a prompt of {len(request.token_ids)} "
                                        f"tokens: {response.error_msg}")
                tokens += response.result.output_token_ids[0]
                if response.result.is_final:
                    return tokens, response.result

    def _started(self, chunked: bool) -> trtllm.Executor:
        """An executor whose steps take whole prompts or chunks; there is memory for one of them only."""
        if self._executor is None or self._chunked != chunked:
            self.close()
            options = ExecutorOptions(cache_fraction=0.5, reuse_cache=False,
                                      max_num_tokens=self.chunk_tokens if chunked else None)
            self._executor, self._chunked = start_executor(self._folder, self._record, options), chunked
        return self._executor
