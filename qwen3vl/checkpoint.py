"""Lazy reading of Hugging Face checkpoints: one `model.safetensors`, or shards with `model.safetensors.index.json`.

Tensors are views of the mapped file, each with a mapping of its own that goes with it: reading a checkpoint tensor by
tensor holds one tensor at a time, whatever its size. A safetensors file is the length of its header (8 bytes, little
endian), the header in JSON (name -> dtype, shape, first and last byte behind the header) and the tensors' bytes
(https://github.com/huggingface/safetensors, "Format").

Names are those of published Qwen3-VL-MoE checkpoints, which `transformers` 5 writes too: `model.visual.*`,
`model.language_model.*` and `lm_head.weight`, the last absent where the embeddings are tied.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import ml_dtypes
import numpy as np

from qwen3vl.errors import CheckpointError
from qwen3vl.json_files import read_json

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
          "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}
MAX_HEADER_BYTES = 100 * 1024 * 1024
# What a fingerprint reads: files up to this size whole, of larger ones so many samples of each tensor.
HASH_WHOLE_BYTES = 256 * 1024 * 1024
SAMPLES, SAMPLE_BYTES = 8, 4096


@dataclass(frozen=True)
class _Tensor:
    file: BinaryIO
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int  # from the start of the file

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Checkpoint:
    """An opened checkpoint; use it as a context manager, or `close` it. Tensors read outlive it."""

    def __init__(self, folder: Path, tensors: dict[str, _Tensor], files: ExitStack) -> None:
        self.folder = folder
        self._tensors = tensors
        self._files = files

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Read the headers of all shards.

        Raises:
            CheckpointError: there are no safetensors, a shard is missing, truncated or broken, or lacks a tensor that
                the index promises.
        """
        folder = Path(folder)
        with ExitStack() as files:
            tensors = _open_index(folder, files) if (folder / INDEX_FILE).exists() else _open_single(folder, files)
            return cls(folder, tensors, files.pop_all())

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def names(self) -> list[str]:
        return list(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self._find(name).shape

    def dtype(self, name: str) -> np.dtype:
        return self._find(name).dtype

    def read(self, name: str) -> np.ndarray:
        """A tensor as stored, read-only; bf16 comes as `ml_dtypes.bfloat16`.

        Raises:
            CheckpointError: the checkpoint has no such tensor; the message lists similar names.
        """
        tensor = self._find(name)
        return _map(tensor, 0, tensor.size_bytes).reshape(tensor.shape)

    def read_slice(self, name: str, index: int) -> np.ndarray:
        """`read(name)[index]`, mapping that part only: one expert of a fused tensor. Errors as in `read`."""
        tensor = self._find(name)
        if not tensor.shape or not 0 <= index < tensor.shape[0]:
            raise CheckpointError(f"{name} has shape {list(tensor.shape)}: there is no part {index} of its first axis")
        part = tensor.size_bytes // tensor.shape[0]
        return _map(tensor, index * part, part).reshape(tensor.shape[1:])

    def fingerprint(self) -> str:
        """A SHA-256 that tells checkpoints apart, cheap however large they are; moving or copying keeps it.

        It covers config.json, every tensor's name, type and shape, and the tensors' bytes: all of them in files up to
        256 MiB; in larger ones 8 samples of 4 KiB from each tensor, first and last bytes included. Training, merging
        or converting changes every sample; editing single values of a large file by hand may go unnoticed.
        """
        config = self.folder / "config.json"
        digest = hashlib.sha256(config.read_bytes() if config.exists() else b"")
        for name, tensor in sorted(self._tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            for start, length in _samples(tensor):
                digest.update(_map(tensor, start, length).view(np.uint8))
        return digest.hexdigest()

    def _find(self, name: str) -> _Tensor:
        if name in self._tensors:
            return self._tensors[name]
        similar = difflib.get_close_matches(name, self._tensors, n=3, cutoff=0.5)
        raise CheckpointError(f"{self.folder} has no tensor {name}; similar ones: {', '.join(similar) or 'none'}")


def _open_single(folder: Path, files: ExitStack) -> dict[str, _Tensor]:
    if not (folder / SINGLE_FILE).exists():
        raise CheckpointError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}: pass the folder of a Hugging Face "
                              "checkpoint in safetensors format")
    return _read_header(folder / SINGLE_FILE, files)


def _open_index(folder: Path, files: ExitStack) -> dict[str, _Tensor]:
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX_FILE}: weight_map is {weight_map!r}, expected names and their files")
    shards = sorted(set(map(str, weight_map.values())))
    missing = [shard for shard in shards if Path(shard).name != shard or not (folder / shard).exists()]
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} of the {len(shards)} shards that {INDEX_FILE} names: "
                              f"{', '.join(missing[:5])}; download them again")
    headers = {shard: _read_header(folder / shard, files) for shard in shards}
    absent = [name for name, shard in weight_map.items() if name not in headers[shard]]
    if absent:
        raise CheckpointError(f"{folder / weight_map[absent[0]]} has no tensor {absent[0]}, which {INDEX_FILE} says is "
                              f"there ({len(absent)} such tensors): index and shards do not belong together")
    return {name: headers[shard][name] for name, shard in weight_map.items()}


def _read_header(path: Path, files: ExitStack) -> dict[str, _Tensor]:
    file = files.enter_context(path.open("rb"))
    size = path.stat().st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise CheckpointError(f"{path} ({size} bytes) is truncated or not a safetensors file: its header should have "
                              f"{length} bytes; download it again")
    try:
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {name: _parse_entry(path, file, name, entry, 8 + length) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} has a broken header ({type(error).__name__}: {error}); download it "
                              "again") from None
    end = max((tensor.offset + tensor.size_bytes for tensor in tensors.values()), default=8 + length)
    if end != size:
        raise CheckpointError(f"{path} has {size} bytes, but its header describes {end}: it is "
                              f"{'truncated' if size < end else 'damaged'}; download it again")
    return tensors


def _parse_entry(path: Path, file: BinaryIO, name: str, entry: dict, base: int) -> _Tensor:
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(f"{path}: {name} has dtype {entry['dtype']}, supported are {', '.join(DTYPES)}; use a "
                              "bf16 checkpoint")
    start, end = entry["data_offsets"]
    tensor = _Tensor(file, np.dtype(DTYPES[entry["dtype"]]), tuple(map(int, entry["shape"])), base + int(start))
    if start < 0 or min(tensor.shape, default=0) < 0 or tensor.size_bytes != end - start:
        raise CheckpointError(f"{path}: {name} has shape {list(tensor.shape)} of {entry['dtype']}, that is "
                              f"{tensor.size_bytes} bytes, but bytes {start} to {end}; download it again")
    return tensor


def _samples(tensor: _Tensor) -> Iterator[tuple[int, int]]:
    """(start, length) of what a fingerprint reads of a tensor."""
    size, file_size = tensor.size_bytes, os.fstat(tensor.file.fileno()).st_size
    if file_size <= HASH_WHOLE_BYTES or size <= SAMPLES * SAMPLE_BYTES:
        yield 0, size
        return
    step = tensor.dtype.itemsize
    for i in range(SAMPLES):
        yield (size - SAMPLE_BYTES) * i // (SAMPLES - 1) // step * step, SAMPLE_BYTES


def _map(tensor: _Tensor, start: int, length: int) -> np.ndarray:
    """Bytes of a tensor as a flat array of its type."""
    if length == 0:
        return np.empty(0, tensor.dtype)
    position = tensor.offset + start
    page = position // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(tensor.file.fileno(), position - page + length, access=mmap.ACCESS_READ, offset=page)
    return np.frombuffer(mapped, np.uint8, length, position - page).view(tensor.dtype)
