"""Writing a safetensors file tensor by tensor, never holding more than a chunk of one.

The format: length of the header (8 bytes, little endian), the header in JSON (name -> dtype, shape, first and last byte
behind the header), the bytes (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from export.trtllm.layout import TensorLayout
from export.trtllm.tensors import RankTensor
from qwen3vl.errors import CheckpointError

DTYPE_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
ALIGNMENT = 8


def write_safetensors(path: Path, tensors: Sequence[RankTensor], progress: tqdm) -> None:
    """Convert each tensor to its type and write it; `progress` counts the bytes of the tensors.

    Raises:
        CheckpointError: a value is too large for the type, or is not a number.
    """
    with open(path, "wb") as stream:
        stream.write(_header([tensor.layout for tensor in tensors]))
        for tensor in tensors:
            start = stream.tell()
            for chunk in tensor.chunks():
                converted = _convert(chunk, tensor.layout)
                stream.write(memoryview(converted.reshape(-1).view(np.uint8)))
                progress.update(converted.nbytes)
            assert stream.tell() - start == tensor.layout.size_bytes, tensor.layout.name


def _header(layouts: Sequence[TensorLayout]) -> bytes:
    entries, end = {}, 0
    for layout in layouts:
        entries[layout.name] = {"dtype": DTYPE_NAMES[layout.dtype.name], "shape": list(layout.shape),
                                "data_offsets": [end, end + layout.size_bytes]}
        end += layout.size_bytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _convert(chunk: np.ndarray, layout: TensorLayout) -> np.ndarray:
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(chunk, dtype=layout.dtype)
    # Only float16 has a smaller range than checkpoints.
    if layout.dtype == np.float16 and not np.isfinite(converted).all():
        raise CheckpointError(f"{layout.name} has values that float16 cannot hold (beyond 65504): use --dtype bfloat16")
    return converted
