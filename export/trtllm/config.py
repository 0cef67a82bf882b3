"""`config.json` of a TensorRT-LLM 1.2.1 checkpoint (models/modeling_utils.py, models/qwen/config.py)."""

from __future__ import annotations

from export.trtllm.options import WEIGHT_ONLY, TrtllmOptions
from qwen3vl.config import ModelConfig

# The only name under which TensorRT-LLM finds this decoder; the engine's own model class is given beside it.
ARCHITECTURE = "Qwen3MoeForCausalLM"
QWEN_TYPE = "qwen3_moe"
# MoeConfig.ExpertScaleNormalizationMode.RENORMALIZE: the shares of the chosen experts add up to 1.
RENORMALIZE = 1


def trtllm_config(config: ModelConfig, options: TrtllmOptions) -> dict:
    """The decoder's configuration as JSON values; ranks are numbered when each file is loaded."""
    text, parallelism = config.text, options.parallelism
    return {
        "architecture": ARCHITECTURE, "qwen_type": QWEN_TYPE,
        "dtype": options.dtype, "logits_dtype": "float32",
        "vocab_size": text.vocab_size, "hidden_size": text.hidden_size,
        "num_hidden_layers": text.num_hidden_layers, "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads, "head_size": text.head_dim,
        "intermediate_size": text.intermediate_size, "moe_intermediate_size": text.moe_intermediate_size,
        "moe_shared_expert_intermediate_size": 0, "mlp_only_layers": [], "decoder_sparse_step": 1,
        "hidden_act": "swiglu", "norm_epsilon": text.rms_norm_eps, "qk_layernorm": True,
        "attn_bias": False, "mlp_bias": False, "use_logn_attn": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        # The tables that requests bring are already those of the three axes: TensorRT-LLM only looks rows up.
        "position_embedding_type": "mrope", "rotary_base": text.rope_theta, "rotary_embedding_dim": text.head_dim,
        "rotary_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
        "max_position_embeddings": options.length(config), "seq_length": options.length(config),
        "moe": {"num_experts": text.num_experts, "top_k": text.num_experts_per_tok, "normalization_mode": RENORMALIZE,
                "sparse_mixer_epsilon": 0.01, "tp_mode": 0},
        "mapping": {"world_size": parallelism.world_size, "tp_size": parallelism.tp, "pp_size": parallelism.pp,
                    "moe_tp_size": parallelism.moe_tp, "moe_ep_size": parallelism.ep},
        "quantization": {"quant_algo": WEIGHT_ONLY.get(options.weight_only), "kv_cache_quant_algo": None},
    }
