"""DeepstackAdd in a TensorRT-LLM network: visual rows of the prompt table added to hidden states.

TensorRT-LLM's runtime gives the engine one prompt table for the whole batch. The rows of the request with the task
number t start at `t * task_vocab_size`, and `PromptTuningEmbedding` (layers/embedding.py) reads row
`id - vocab_size + t * task_vocab_size` of it. DeepStack's levels are the rows behind that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plugins.deepstack_add.operator import NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION
from qwen3vl.errors import ArtifactError

if TYPE_CHECKING:
    from tensorrt_llm.functional import Tensor


@dataclass(frozen=True, eq=False)  # comparing tensors adds an operation to the network
class PromptTable:
    """The visual rows of a batch as network tensors.

    Attributes:
        token_ids: int32 [T]; the row of a visual token is `id - vocab_size`, counted in the batch's table.
        rows: [R, H], of the type of the hidden states.
        vocab_size: the first id that means a visual token.
        plugin: add rows by the plugin; by TensorRT's own operations otherwise.
    """

    token_ids: Tensor
    rows: Tensor
    vocab_size: int
    plugin: bool

    @classmethod
    def of_batch(cls, input_ids: Tensor, rows: Tensor, tasks: Tensor, task_vocab_size: Tensor, *, vocab_size: int,
                 plugin: bool) -> PromptTable:
        """From the engine's inputs.

        Args:
            input_ids: int32 [T]; a visual token's id counts the rows of its own request.
            rows: [R, H], the tables of all requests.
            tasks: int32 [T], the number of each token's request.
            task_vocab_size: int32 [1], rows from one request's table to the next one's.
        """
        from tensorrt_llm.functional import expand, shape, where

        first_row = expand(tasks * task_vocab_size, shape(input_ids))
        token_ids = where(input_ids > vocab_size - 1, input_ids + first_row, input_ids)
        return cls(token_ids, rows, vocab_size, plugin)

    def add_level(self, hidden: Tensor, level: int) -> Tensor:
        """`hidden` [T, H] plus the rows of one level, 1 or more; tokens that are not visual stay as they are."""
        return self._by_plugin(hidden, level) if self.plugin else self._by_operations(hidden, level)

    def _by_operations(self, hidden: Tensor, level: int) -> Tensor:
        from tensorrt_llm.functional import embedding, unsqueeze, where

        is_visual = self.token_ids > self.vocab_size - 1
        # A gather needs a valid row for every token: the first one for those whose sum is not taken.
        index = where(is_visual, self.token_ids - (self.vocab_size - level), 0)
        # Selecting between sums, not between rows and zero: a constant would be float32 in a bfloat16 network.
        return where(unsqueeze(is_visual, -1), hidden + embedding(index, self.rows), hidden)

    def _by_plugin(self, hidden: Tensor, level: int) -> Tensor:
        import tensorrt as trt
        from tensorrt_llm._common import default_trtnet
        from tensorrt_llm.functional import _create_tensor

        creator = trt.get_plugin_registry().get_creator(NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE)
        fields = trt.PluginFieldCollection([
            trt.PluginField(name, np.array([value], np.int32), trt.PluginFieldType.INT32)
            for name, value in (("level", level), ("vocab_size", self.vocab_size))])
        plugin = creator.create_plugin(f"deepstack_add_{level}", fields, trt.TensorRTPhase.BUILD)
        if plugin is None:
            raise ArtifactError(f"the plugin {NAME} refuses level {level} and vocab_size {self.vocab_size}; TensorRT's "
                                "log says why")
        inputs = [tensor.trt_tensor for tensor in (hidden, self.token_ids, self.rows)]
        layer = default_trtnet().add_plugin_v3(inputs, [], plugin)
        return _create_tensor(layer.get_output(0), layer)
