"""The bundled model's shape: a Qwen3-VL-MoE of 5.2 million parameters with every mechanism of the large ones."""

from __future__ import annotations

import json
from pathlib import Path

from models.tiny_shapes_training.tokenizer import SPECIAL_TOKENS, VOCAB_SIZE

HIDDEN_SIZE = 192
PATCH = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
_TOKEN_IDS = {token: VOCAB_SIZE - len(SPECIAL_TOKENS) + i for i, token in enumerate(SPECIAL_TOKENS)}
_END_OF_TEXT, _END_OF_TURN = _TOKEN_IDS["<|endoftext|>"], _TOKEN_IDS["<|im_end|>"]

CONFIG = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "model_type": "qwen3_vl_moe",
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
    "image_token_id": _TOKEN_IDS["<|image_pad|>"],
    "video_token_id": _TOKEN_IDS["<|video_pad|>"],
    "vision_start_token_id": _TOKEN_IDS["<|vision_start|>"],
    "vision_end_token_id": _TOKEN_IDS["<|vision_end|>"],
    "text_config": {
        "model_type": "qwen3_vl_moe_text",
        "vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN_SIZE, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 48, "attention_bias": False,
        "hidden_act": "silu", "intermediate_size": 384, "moe_intermediate_size": 80, "num_experts": 8,
        "num_experts_per_tok": 2, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_interleaved": True,
                            "mrope_section": [8, 8, 8]},
        "pad_token_id": _END_OF_TEXT, "eos_token_id": _END_OF_TURN,
    },
    "vision_config": {
        "model_type": "qwen3_vl_moe_vision",
        "depth": 6, "hidden_size": 96, "num_heads": 4, "intermediate_size": 384, "out_hidden_size": HIDDEN_SIZE,
        "hidden_act": "gelu_pytorch_tanh", "in_channels": 3, "num_position_embeddings": 256,
        "patch_size": PATCH["patch_size"], "temporal_patch_size": PATCH["temporal_patch_size"],
        "spatial_merge_size": PATCH["merge_size"], "deepstack_visual_indexes": [1, 3, 4],
    },
}
GENERATION_CONFIG = {"do_sample": False, "eos_token_id": [_END_OF_TURN, _END_OF_TEXT], "pad_token_id": _END_OF_TEXT}
_PIXELS = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3,
           "do_convert_rgb": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], **PATCH}
# Bounds of width times height after resizing; pictures of 96 x 96 pixels and more keep their size.
IMAGE_SETTINGS = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen3VLProcessor",
                  "size": {"shortest_edge": 64 * 64, "longest_edge": 512 * 512}, **_PIXELS}
# These bound all frames of a video together.
VIDEO_SETTINGS = {"video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor",
                  "size": {"shortest_edge": 4 * 64 * 64, "longest_edge": 16 * 256 * 256}, "fps": 2, "min_frames": 4,
                  "max_frames": 16, **_PIXELS}


def write_settings(folder: Path) -> None:
    """config.json, generation_config.json, preprocessor_config.json and video_preprocessor_config.json."""
    for name, values in (("config", CONFIG), ("generation_config", GENERATION_CONFIG),
                         ("preprocessor_config", IMAGE_SETTINGS), ("video_preprocessor_config", VIDEO_SETTINGS)):
        (folder / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n")
