"""One prepared prompt as a request of TensorRT-LLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engines.batching.request import GenerationRequest
from engines.trtllm.executor.extra_ids import extra_ids
from engines.trtllm.executor.rotary_table import RotaryTables
from engines.trtllm.executor.sampling import require_samplable, sampling_config
from engines.trtllm.record import TrtllmRecord
from qwen3vl.config import ModelConfig
from qwen3vl.errors import InvalidRequest

if TYPE_CHECKING:
    import tensorrt_llm.bindings.executor as trtllm


class RequestBuilder:
    """Makes requests for one engine.

    Args:
        record: the engine's.
        config: the model.
        eos_token_ids: tokens that end an answer, the usual one first.
    """

    def __init__(self, record: TrtllmRecord, config: ModelConfig, eos_token_ids: Sequence[int]):
        self._record, self._config = record, config
        self._end, *self._other_ends = eos_token_ids
        self._rotary = RotaryTables(config.text, record.sizes.total_tokens)

    def require_valid(self, request: GenerationRequest) -> None:
        """Raise an InvalidRequest for what is beyond the engine: the runtime would fail the whole batch for it."""
        tokens = len(request.visual_rows) / self._record.rows_per_token
        if tokens > (limit := self._record.sizes.max_visual_tokens):
            raise InvalidRequest(f"the prompt has {tokens:g} visual tokens, expected at most {limit}, for which this "
                                 "engine was built: send fewer or smaller pictures")
        positions, length = request.position_ids, self._record.sizes.total_tokens
        if positions.min() < 0 or positions.max() >= length:
            raise InvalidRequest(f"position_ids range from {positions.min()} to {positions.max()}, expected 0 to "
                                 f"{length - 1}")
        require_samplable(request.sampling, self._config.text.vocab_size)

    def build(self, request: GenerationRequest, max_tokens: int,
              context_logits: bool = False) -> trtllm.Request:
        """The request; its tokens are streamed as they come.

        Args:
            request: valid.
            max_tokens: of the answer at most; prompt and answer together must fit the engine.
            context_logits: whether the logits of the prompt's tokens come with the last result, from an engine that
                gives them.
        """
        import tensorrt_llm.bindings.executor as trtllm
        import torch

        table = self._rotary.table(request.position_ids, request.rope_delta)
        return trtllm.Request(
            request.token_ids.tolist(), max_tokens, streaming=True,
            sampling_config=sampling_config(request.sampling, self._config.text.vocab_size),
            output_config=trtllm.OutputConfig(exclude_input_from_output=True, return_context_logits=context_logits),
            end_id=self._end, stop_words=[[token] for token in self._other_ends] or None,
            prompt_tuning_config=self._prompt_table(request) if len(request.visual_rows) else None,
            mrope_config=trtllm.MropeConfig(torch.from_numpy(table), request.rope_delta))

    def _prompt_table(self, request: GenerationRequest) -> trtllm.PromptTuningConfig:
        """The request's visual rows in the model's type, [rows, hidden]: the runtime puts a batch axis before them.

        As many rows as there are: the runtime takes their number for the size of the request's prompt vocabulary
        (cpp/include/tensorrt_llm/batch_manager/llmRequest.h).
        """
        import tensorrt_llm.bindings.executor as trtllm
        import torch

        rows = torch.from_numpy(np.ascontiguousarray(request.visual_rows, np.float32))
        rows = rows.to(torch.bfloat16 if self._record.dtype == "bfloat16" else torch.float16)
        ids = extra_ids(request.token_ids, request.position_ids, rows.view(torch.uint8).numpy(),
                        self._config.text.vocab_size, self._record.rows_per_token)
        return trtllm.PromptTuningConfig(rows, ids.tolist())
