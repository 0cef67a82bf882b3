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


def write_overlapping_checkpoint(folder: Path, config: Qwen3VLMoeConfig, seed: int) -> int:
    """Write config.json and model.safetensors in bf16. Norms are 1, biases 0, weights normal, scaled by the width.

    Returns:
        The file's size in bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    shapes = tensor_shapes(config)
    vector = max(2 * math.prod(shape) for shape in shapes.values() if len(shape) == 1)
    header, end = {}, 0
    for index, (name, shape) in enumerate(shapes.items()):
        start = 2 * vector + index * STEP  # in the pool, behind a vector of ones and one of zeros
        if len(shape) == 1:
            start = vector if name.endswith("bias") else 0
        stop = start + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, stop]}
        end = max(end, stop)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(folder / WEIGHTS, "wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        stream.write(_bytes(torch.ones(vector // 2)) + bytes(vector))
        _write_pool(stream, (end - 2 * vector) // 2, config.text_config.hidden_size**-0.5, seed)
    return end


def _write_pool(stream, values: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, values, CHUNK_VALUES):
        stream.write(_bytes(torch.randn(min(CHUNK_VALUES, values - start), generator=generator) * scale))


def _bytes(values: torch.Tensor) -> bytes:
    return values.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
