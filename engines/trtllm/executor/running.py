"""A request that the executor has: its responses to emissions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engines.batching.answer import Answer
from qwen3vl.errors import Qwen3VLError

if TYPE_CHECKING:
    import tensorrt_llm.bindings.executor as trtllm


class Running:
    """Attributes:
        answer: what it has been answered.
        ended: nothing more goes to whoever asked.
        final: the executor has sent its last response; it comes later than `ended` where a stop string, of which the
            executor knows nothing, ended the answer.
        cancelling: the executor was told to cancel it.

    Args:
        end_id: the token whose sampling the executor reports as `END_ID`.
        count: adds to counters of `BatcherStats`.
    """

    def __init__(self, answer: Answer, end_id: int, count: Callable[..., None]):
        self.answer, self._end_id, self._count = answer, end_id, count
        self.ended = self.final = self.cancelling = self._prefilled = False

    def take(self, response: trtllm.Response) -> None:
        """Send what a response brings."""
        if response.has_error():
            self.final = True
            self.fail(Qwen3VLError(f"the decoder failed on this request: {response.error_msg}"))
            return
        result = response.result
        if not self._prefilled:
            self._prefilled = True
            self._count(prompt_tokens=self.answer.prompt_length)
        self.final = result.is_final
        for token in result.output_token_ids[0]:
            self._accept(token)
        if result.is_final:
            self._end(result.finish_reasons[0])

    def fail(self, error: Exception) -> None:
        """Send an error, unless the answer has ended."""
        if not self.ended:
            self.ended = True
            self._count(failed=1)
            self.answer.fail(error)

    def _accept(self, token: int) -> None:
        if self.ended:
            return
        reason = self.answer.accept(token)
        self._count(generated_tokens=1)
        if reason:
            self._finish(reason)

    def _end(self, reason: trtllm.FinishReason) -> None:
        """Finish for the executor's reason, unless the tokens have been one already."""
        import tensorrt_llm.bindings.executor as trtllm

        if self.ended:
            return
        if reason == trtllm.FinishReason.END_ID:
            # The end token itself is not among the tokens (cpp/tensorrt_llm/kernels/samplingTopKKernels.cu).
            self._accept(self._end_id)
        elif reason in (trtllm.FinishReason.LENGTH, trtllm.FinishReason.STOP_WORDS):
            self._finish("length" if reason == trtllm.FinishReason.LENGTH else "stop")
        elif reason == trtllm.FinishReason.CANCELLED:
            self._finish("cancelled")
        else:
            self.fail(Qwen3VLError(f"the decoder ended this request with {reason}"))

    def _finish(self, reason: str) -> None:
        self.ended = True
        self._count(**{"cancelled" if reason == "cancelled" else "finished": 1})
        self.answer.finish(reason)
