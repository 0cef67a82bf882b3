"""A checkpoint of any depth in a file hardly larger than its largest tensor: for builds too large to have both on disk.

Tensors of a safetensors file are byte ranges. Here they overlap: each weight begins elsewhere in one pool of random
values. So no two are alike, and what is exported is as large, and as separate in memory, as from a checkpoint of the
full size. `transformers` takes no such file; `qwen3vl.checkpoint` does.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import torch
from transformers import Qwen3VLMoeConfig

from bench.synthetic_checkpoint import tensor_shapes

WEIGHTS = "model.safetensors"
# Bytes from one weight's beginning to the next one's: no multiple of a row, so that no rows are alike either.
STEP = 2 * 4099
CHUNK_VALUES = 1 << 24
# Of the norms before attention, whose scale passes through values to attention's output. That is nearly the same for
# all tokens; with 1, it outgrows what tells tokens apart within a few random layers, and all of them choose the same
# experts: steps of 16 sequences read 4.8 GB instead of 12.
INPUT_NORM = 0.1
# What names of vectors end with, and the value that such a vector has throughout; the first that fits.
VECTORS = (("bias", 0.0), ("input_layernorm.weight", INPUT_NORM), ("", 1.0))


def write_overlapping_checkpoint(folder: Path, config: Qwen3VLMoeConfig, seed: int) -> int:
    """Write config.json and model.safetensors in bf16.

    Weights are normal, scaled by the width; biases 0; norms 1, those before attention `INPUT_NORM`.

    Returns:
        The file's size in bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    shapes = tensor_shapes(config)
    vector = max(2 * math.prod(shape) for shape in shapes.values() if len(shape) == 1)
    header, end = {}, 0
    for index, (name, shape) in enumerate(shapes.items()):
        start = len(VECTORS) * vector + index * STEP  # in the pool, behind the vectors
        if len(shape) == 1:
            start = vector * next(place for place, (suffix, _) in enumerate(VECTORS) if name.endswith(suffix))
        stop = start + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, stop]}
        end = max(end, stop)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(folder / WEIGHTS, "wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, value in VECTORS:
            stream.write(_bytes(torch.full((vector // 2,), value)))
        _write_pool(stream, (end - len(VECTORS) * vector) // 2, config.text_config.hidden_size**-0.5, seed)
    return end


def _write_pool(stream, values: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, values, CHUNK_VALUES):
        stream.write(_bytes(torch.randn(min(CHUNK_VALUES, values - start), generator=generator) * scale))


def _bytes(values: torch.Tensor) -> bytes:
    return values.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
