"""A made-up checkpoint for speed measurements on a CPU: large enough that a decode step takes some ten milliseconds.

    python -m bench.make_model build/bench-checkpoint

Weights are random, tokenizer and settings those of models/tiny-shapes. No token ends a text, so that answers have the
length that is asked for; and all that are generated are ASCII, so that each is a piece of text by itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from pathlib import Path

from transformers import Qwen3VLMoeConfig

from bench.synthetic_checkpoint import config_30b_a3b, write_checkpoint
from qwen3vl.tokenizer import Tokenizer

TEMPLATE = Path(__file__).parent.parent / "models/tiny-shapes"


def make_model(folder: Path) -> None:
    """Write the checkpoint: 12 layers of width 1024, 16 experts of 768 of which 4 are used, 0.5 billion parameters."""
    tiny = json.loads((TEMPLATE / "config.json").read_text())
    tokens = {name: tiny[name] for name in ("image_token_id", "video_token_id", "vision_start_token_id",
                                            "vision_end_token_id")}
    # One token more than the tokenizer has: the end of text.
    vocab_size = tiny["text_config"]["vocab_size"] + 1
    text = {**tiny["text_config"], "vocab_size": vocab_size, "hidden_size": 1024, "num_hidden_layers": 12,
            "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
            "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 768,
            "rope_parameters": {**tiny["text_config"]["rope_parameters"], "mrope_section": [12, 10, 10]}}
    vision = {**tiny["vision_config"], "depth": 12, "hidden_size": 512, "num_heads": 8, "intermediate_size": 2048,
              "out_hidden_size": 1024, "deepstack_visual_indexes": [3, 6, 9]}
    config = Qwen3VLMoeConfig(text_config=text, vision_config=vision, tie_word_embeddings=False,
                              architectures=["Qwen3VLMoeForConditionalGeneration"], **tokens)
    write_checkpoint(folder, config, seed=0)
    _complete(folder, vocab_size)


def make_wide_model(folder: Path, layers: int) -> None:
    """Write a checkpoint with the shapes of Qwen3-VL-30B-A3B, but few layers and the tokenizer's small vocabulary."""
    tiny = json.loads((TEMPLATE / "config.json").read_text())
    config = config_30b_a3b(layers=layers, vision_depth=5)
    # Kernels take multiples of 8; the last token is the end of text.
    config.text_config.vocab_size = vocab_size = -(-(tiny["text_config"]["vocab_size"] + 1) // 8) * 8
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(config, name, tiny[name])
    write_checkpoint(folder, config, seed=0)
    _complete(folder, vocab_size)


def _complete(folder: Path, vocab_size: int) -> None:
    """Add tokenizer and settings, and an end of text that is never generated."""
    for file in TEMPLATE.iterdir():
        if file.suffix in (".json", ".jinja") and file.name not in ("config.json", "generation_config.json",
                                                                    "evaluation.json"):
            shutil.copy(file, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [vocab_size - 1]}))
    token_bytes = Tokenizer.from_checkpoint(folder).token_bytes
    unprintable = [i for i, text in enumerate(token_bytes)
                   if not (text and text.isascii() and text.decode().isprintable())]
    _never_generate(folder, unprintable)


def _never_generate(folder: Path, token_ids: list[int]) -> None:
    """Give tokens a logit of 0, which is never the largest."""
    with open(folder / "model.safetensors", "r+b") as stream:
        size, = struct.unpack("<Q", stream.read(8))
        head = json.loads(stream.read(size))["lm_head.weight"]
        row = 2 * head["shape"][1]
        for token in token_ids:
            stream.seek(8 + size + head["data_offsets"][0] + token * row)
            stream.write(bytes(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    make_model(parser.parse_args().folder)


if __name__ == "__main__":
    main()
