"""TensorRT-LLM's `BuildConfig` for an engine of the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engines.trtllm.sizes import EngineSizes

if TYPE_CHECKING:
    from tensorrt_llm.builder import BuildConfig


def build_config(sizes: EngineSizes, *, rows_per_token: int, context_logits: bool, timing_cache: Path) -> BuildConfig:
    """What `tensorrt_llm.builder.build` is given; only what differs from its defaults or must not change with them.

    Args:
        rows_per_token: 1 + D rows of the prompt table for each visual token.
        context_logits: whether the engine can give logits of every prompt token.
        timing_cache: where TensorRT-LLM writes its kernel times; by default into the working directory.
    """
    from tensorrt_llm.builder import BuildConfig
    from tensorrt_llm.plugin import PluginConfig

    plugins = PluginConfig()
    # In-flight batching: packed tokens, a paged cache, and a context attention that reads it, which prompts in chunks
    # and prompts with a reused beginning need. The type "auto" is the model's.
    plugins.remove_input_padding = True
    plugins.paged_kv_cache = True
    plugins.use_paged_context_fmha = True
    plugins.gpt_attention_plugin = "auto"
    plugins.moe_plugin = "auto"
    plugins.gemm_plugin = "auto"
    return BuildConfig(
        max_batch_size=sizes.max_batch, max_num_tokens=sizes.max_num_tokens,
        max_input_len=sizes.prompt_tokens, max_seq_len=sizes.total_tokens, max_beam_width=1,
        max_prompt_embedding_table_size=sizes.table_rows(rows_per_token),
        gather_context_logits=context_logits,
        # The runtime reads it from the engine's config.json and only then hands M-RoPE's tables on.
        use_mrope=True, plugin_config=plugins, output_timing_cache=str(timing_cache))
