"""Random Qwen3-VL-MoE checkpoints in the Hugging Face layout, of any shape, small enough for tests.

`make_checkpoint` writes config.json, generation_config.json and safetensors; tokenizer and processor files are
`tests.support.processor_folder`'s. The weights are scaled so that every mechanism shows in the logits: activations of
about unit size, a router whose choices differ from token to token, norms and biases away from 1 and 0.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

# Token ids right after the 256 byte tokens, in the order of Qwen's tokenizer.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                  "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
TOKEN_IDS = {token: 256 + i for i, token in enumerate(SPECIAL_TOKENS)}

TEXT = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 40, "decoder_sparse_step": 1, "mlp_only_layers": [], "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_interleaved": True,
                        "mrope_section": [4, 4, 4]},
}
# What to replace for weights of 4 bits in the CUDA kernels' order, which is for rows of 256 values, 128 in experts'
# down projections; and a vocabulary that the kernel for 8-bit codes takes.
INT4_KERNEL_TEXT = {
    "vocab_size": 304, "hidden_size": 256, "moe_intermediate_size": 128, "num_attention_heads": 8, "head_dim": 32,
    "rope_parameters": {**TEXT["rope_parameters"], "mrope_section": [6, 5, 5]},
}
VISION = {
    "depth": 5, "hidden_size": 48, "num_heads": 4, "intermediate_size": 80, "out_hidden_size": 64, "patch_size": 16,
    "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 144,
    "deepstack_visual_indexes": [1, 2, 3], "hidden_act": "gelu_pytorch_tanh", "in_channels": 3,
}


def make_config(*, text: dict | None = None, vision: dict | None = None,
                tie_word_embeddings: bool = False) -> Qwen3VLMoeConfig:
    """The default tiny configuration with these fields of its text and vision part replaced.

    A changed `head_dim` needs a fitting `rope_parameters.mrope_section`; `out_hidden_size` follows `hidden_size`.
    """
    text = {**TEXT, **(text or {}), "tie_word_embeddings": tie_word_embeddings}
    vision = {**VISION, "out_hidden_size": text["hidden_size"], **(vision or {})}
    return Qwen3VLMoeConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tie_word_embeddings,
        image_token_id=TOKEN_IDS["<|image_pad|>"], video_token_id=TOKEN_IDS["<|video_pad|>"],
        vision_start_token_id=TOKEN_IDS["<|vision_start|>"], vision_end_token_id=TOKEN_IDS["<|vision_end|>"],
        architectures=["Qwen3VLMoeForConditionalGeneration"])


def make_checkpoint(folder: str | Path, *, seed: int = 0, text: dict | None = None, vision: dict | None = None,
                    tie_word_embeddings: bool = False, experts_transposed: bool = False, shards: int = 1,
                    dtype: torch.dtype = torch.float32) -> Path:
    """Write a random checkpoint and return its folder.

    Args:
        text, vision: fields of `text_config` and `vision_config` that differ from `TEXT` and `VISION`.
        experts_transposed: store fused experts as [E, H, 2I] and [E, I, H] (older checkpoints) instead of
            [E, 2I, H] and [E, H, I].
        shards: above 1, `model-0000k-of-0000n.safetensors` files and `model.safetensors.index.json`.
        dtype: of every stored tensor.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(text=text, vision=vision, tie_word_embeddings=tie_word_embeddings)
    config.dtype = dtype
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=[TOKEN_IDS["<|im_end|>"], TOKEN_IDS["<|endoftext|>"]],
                     pad_token_id=TOKEN_IDS["<|endoftext|>"], do_sample=False).save_pretrained(folder)
    tensors = {name: tensor.to(dtype) for name, tensor in _random_weights(config, seed).items()}
    if experts_transposed:
        tensors = {name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
                   for name, tensor in tensors.items()}
    _write(folder, tensors, shards)
    return folder


def _random_weights(config: Qwen3VLMoeConfig, seed: int) -> dict[str, torch.Tensor]:
    """Name -> float32 tensor, as a checkpoint holds them (no `lm_head.weight` with tied embeddings)."""
    with torch.device("meta"):
        shapes = Qwen3VLMoeForConditionalGeneration(config).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {name: _random_weight(name, tuple(tensor.shape), generator) for name, tensor in shapes.items()
            if not (config.tie_word_embeddings and name == "lm_head.weight")}


def _random_weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.2 * values
    if len(shape) == 1:  # norms
        return 1 + 0.2 * values
    if "embed_tokens" in name:  # quiet, so that tied embeddings do not just predict the token itself
        return 0.4 * values
    if "pos_embed" in name:
        return values
    fan_in = torch.Size(shape[1:]).numel()
    if ".experts." in name:  # [E, out, in]
        fan_in = shape[2]
    gain = 3.0 if "lm_head" in name or ".mlp.gate.weight" in name else 1.0
    return gain * values / fan_in**0.5


def _write(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = [f"model-{k + 1:05d}-of-{shards:05d}.safetensors" for k in range(shards)]
    owner = {name: names[i * shards // len(tensors)] for i, name in enumerate(tensors)}
    for shard in names:
        save_file({name: tensors[name] for name, file in owner.items() if file == shard}, folder / shard,
                  metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": owner}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
