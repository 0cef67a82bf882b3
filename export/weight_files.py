"""Writing a graph's weights, one data file for each group, as ONNX external data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from export.build_folder import BuildFolder
from export.graph import GraphBuilder
from export.progress import byte_progress

# Offsets are multiples of the page size, so that runtimes can map each weight straight from the file.
ALIGNMENT = 4096


def write_model(build: BuildFolder, relative: str, model: ir.Model, builder: GraphBuilder, key: dict) -> bool:
    """Write `relative` (an .onnx file) and, beside it, a folder of weights.

    Groups that are already there are skipped, so an interrupted export continues where it was.

    Args:
        key: what the weights' content depends on.

    Returns:
        Whether anything was written.
    """
    folder = f"{Path(relative).with_suffix('')}.weights"
    total = sum(_layout(group)[1] for group in builder.weights.values())
    wrote = False
    with byte_progress(f"export {Path(relative).name}", total) as progress:
        for name, group in builder.weights.items():
            path, (offsets, size) = f"{folder}/{name}.bin", _layout(group)
            tensors = [value.const_value for value in group]
            group_key = {**key, "weights": [[value.name, str(value.dtype), list(value.shape)] for value in group]}
            made = build.artifact(path, group_key, lambda target, t=tensors, o=offsets: _write(target, t, o, progress))
            if not made:
                progress.update(size)
            wrote = wrote or made
            location = f"{Path(folder).name}/{name}.bin"
            for value, tensor, offset in zip(group, tensors, offsets, strict=True):
                value.const_value = ir.ExternalTensor(location, offset, tensor.nbytes, tensor.dtype,
                                                      shape=tensor.shape, name=tensor.name,
                                                      base_dir=(build.path / relative).parent)
    graph_key = {**key, "weights": {name: build.sha256_of(f"{folder}/{name}.bin") for name in builder.weights}}
    return build.artifact(relative, graph_key, lambda target: ir.save(model, target)) or wrote


def _layout(group: Sequence[ir.Value]) -> tuple[list[int], int]:
    """The offset of each weight of a group and the size of its file, in bytes."""
    offsets, end = [], 0
    for value in group:
        offset = math.ceil(end / ALIGNMENT) * ALIGNMENT
        offsets.append(offset)
        end = offset + value.const_value.nbytes
    return offsets, end


def _write(target: Path, tensors: Sequence[ir.TensorProtocol], offsets: Sequence[int], progress) -> None:
    with open(target, "wb") as stream:
        for tensor, offset in zip(tensors, offsets, strict=True):
            progress.update(offset - stream.tell())
            stream.seek(offset)
            tensor.tofile(_Counted(stream, progress))


class _Counted:
    """A file that reports what is written to it."""

    def __init__(self, stream, progress):
        self._stream, self._progress = stream, progress

    def write(self, data: memoryview) -> int:
        self._progress.update(len(data))
        return self._stream.write(data)
