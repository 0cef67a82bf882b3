"""Checkpoints of any size for measurements, when the published ones are out of reach: right shapes, made-up weights."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

# A pool of random values that the weights are cut from: writing gigabytes costs no more than copying.
POOL_VALUES = 1 << 22


def config_30b_a3b(*, layers: int = 48, vision_depth: int = 27) -> Qwen3VLMoeConfig:
    """The published shapes of Qwen3-VL-30B-A3B (its config.json), with fewer layers where wanted."""
    text = {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": layers,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
            "num_experts_per_tok": 8, "moe_intermediate_size": 768, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True,
                                "mrope_section": [24, 20, 20]}}
    indexes = [8, 16, 24] if vision_depth > 24 else list(range(1, min(4, vision_depth)))
    vision = {"depth": vision_depth, "hidden_size": 1152, "num_heads": 16, "intermediate_size": 4304,
              "out_hidden_size": 2048, "patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2,
              "num_position_embeddings": 2304, "deepstack_visual_indexes": indexes}
    return Qwen3VLMoeConfig(text_config=text, vision_config=vision, tie_word_embeddings=False,
                            architectures=["Qwen3VLMoeForConditionalGeneration"])


def narrowed(config: Qwen3VLMoeConfig) -> Qwen3VLMoeConfig:
    """The configuration with a decoder small enough to try programs on a CPU."""
    text = config.text_config
    text.hidden_size = config.vision_config.out_hidden_size = 256
    text.num_attention_heads, text.num_key_value_heads = 8, 1
    text.num_experts, text.moe_intermediate_size, text.vocab_size = 16, 128, 1024
    return config


def write_checkpoint(folder: Path, config: Qwen3VLMoeConfig, *, seed: int | None = None) -> int:
    """Write config.json and model.safetensors in bf16.

    Args:
        seed: of random weights, scaled by their fan-in; None leaves a hole of zeros that takes no disk space.

    Returns:
        The checkpoint's size in bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    shapes = tensor_shapes(config)
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(folder / "model.safetensors", "wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        if seed is None:
            stream.truncate(stream.tell() + end)
        else:
            pool = torch.randn(POOL_VALUES, generator=torch.Generator().manual_seed(seed))
            for index, (name, shape) in enumerate(shapes.items()):
                # Each starts elsewhere: engines store equal weights once, which no real checkpoint has.
                _write_weight(stream, name, shape, pool.roll(index * 4099))
    return end


def tensor_shapes(config: Qwen3VLMoeConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, in the order of the model."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape)
                for name, tensor in Qwen3VLMoeForConditionalGeneration(config).state_dict().items()}


def _write_weight(stream, name: str, shape: tuple[int, ...], pool: torch.Tensor) -> None:
    if len(shape) == 1:  # norms are 1, biases 0
        stream.write(_bf16(torch.full(shape, 0.0 if name.endswith("bias") else 1.0)))
        return
    fan_in = shape[-1] if len(shape) < 5 else math.prod(shape[1:])
    block, left = _bf16(pool / fan_in**0.5), 2 * math.prod(shape)
    while left:
        left -= stream.write(block[:left])


def _bf16(values: torch.Tensor) -> memoryview:
    return memoryview(values.to(torch.bfloat16).view(torch.int16).numpy().astype(np.int16)).cast("B")
