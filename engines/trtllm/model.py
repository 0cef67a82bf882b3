"""Qwen3-VL's MoE decoder as a TensorRT-LLM model: its own Qwen decoder, with DeepStack after the first layers.

What TensorRT-LLM 1.2.1's Qwen decoder lacks for this model, and nothing else, is here:

- visual rows are added after layers 0..D-1 (`engines.trtllm.deepstack`); level 0, the embedding, is TensorRT-LLM's own
  `PromptTuningEmbedding`, which `build` puts in the place of the word embedding where there is a prompt table;
- queries and keys are normalised with the model's epsilon: `QWenDecoderLayer` hands none on, and `Attention`'s default
  is 1e-5 (layers/attention.py);
- M-RoPE's tables are inputs: `build` asks for them for two architectures of Qwen2-VL only (builder.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.trtllm.checks import load_tensorrt_llm
from engines.trtllm.deepstack import PromptTable
from qwen3vl.errors import ArtifactError

if TYPE_CHECKING:
    from tensorrt_llm.models.modeling_utils import PretrainedConfig

# Attributes of the configuration beyond TensorRT-LLM's own; they end up in the engine's config.json too.
LEVELS, PLUGIN = "deepstack_levels", "deepstack_plugin"


def configure(config: PretrainedConfig, *, levels: int, plugin: bool) -> None:
    """Add what the model class needs to a configuration read from a checkpoint.

    Args:
        levels: D, the number of layers after which visual rows are added.
        plugin: add them by the plugin, which must be registered; by TensorRT's own operations otherwise.
    """
    setattr(config, LEVELS, levels)
    setattr(config, PLUGIN, plugin)


def model_class() -> type:
    """The model class, a subclass of `QWenForCausalLM`: defined here because its bases exist with TensorRT-LLM only.

    Raises:
        ArtifactError: TensorRT-LLM is not installed or of another version.
    """
    load_tensorrt_llm()
    from tensorrt_llm.models.modeling_utils import DecoderLayerList
    from tensorrt_llm.models.qwen.model import QWenDecoderLayer, QWenForCausalLM, QWenModel

    class DeepstackDecoderLayer(QWenDecoderLayer):
        """A decoder layer; behind the first D of them a level of the prompt table is added."""

        def __init__(self, config, layer_idx: int) -> None:
            super().__init__(config, layer_idx)
            self.attention.q_layernorm.eps = config.norm_epsilon
            self.attention.k_layernorm.eps = config.norm_epsilon
            self.prompt_table: PromptTable | None = None

        def forward(self, hidden_states, **kwargs):
            output = super().forward(hidden_states, **kwargs)
            if self.layer_idx >= getattr(self.config, LEVELS):
                return output
            hidden_states, *cache = output if isinstance(output, tuple) else (output,)
            hidden_states = self.prompt_table.add_level(hidden_states, self.layer_idx + 1)
            return (hidden_states, *cache) if cache else hidden_states

    class DeepstackModel(QWenModel):
        def __init__(self, config) -> None:
            super().__init__(config)
            self.layers = DecoderLayerList(DeepstackDecoderLayer, config)
            self.config = config

        def forward(self, input_ids, prompt_embedding_table=None, prompt_tasks=None, prompt_vocab_size=None, **kwargs):
            if self.mapping.is_first_pp_rank():
                if prompt_embedding_table is None:
                    raise ArtifactError("the network has no prompt table, so visual rows have no way in: build it with "
                                        "max_prompt_embedding_table_size above 0")
                table = PromptTable.of_batch(
                    input_ids, prompt_embedding_table, prompt_tasks, prompt_vocab_size,
                    vocab_size=self.config.vocab_size, plugin=getattr(self.config, PLUGIN))
                for layer in self.layers:
                    layer.prompt_table = table
            return super().forward(input_ids, prompt_embedding_table=prompt_embedding_table, prompt_tasks=prompt_tasks,
                                   prompt_vocab_size=prompt_vocab_size, **kwargs)

    class Qwen3VLMoeForCausalLM(QWenForCausalLM):
        def __init__(self, config) -> None:
            super().__init__(config)
            self.transformer = DeepstackModel(config)

        def prepare_inputs(self, *args, **kwargs):
            """The engine's inputs; M-RoPE's are those of the whole deployed length."""
            kwargs["mrope_rotary_cos_sin_size"] = self.config.max_position_embeddings * self.config.rotary_embedding_dim
            return super().prepare_inputs(*args, **kwargs)

    return Qwen3VLMoeForCausalLM
