"""Writing a graph's weights, one data file for each group, as ONNX external data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from export.build_folder import BuildFolder
from export.graph import GraphBuilder
from export.progress import byte_progress

# Offsets are multiples of the page size, so that runtimes can map each weight straight from the file.
ALIGNMENT = 4096
# Goes up when the same weights of a checkpoint are written differently.
RECIPE = 2


def write_model(build: BuildFolder, relative: str, model: ir.Model, builder: GraphBuilder, key: dict) -> bool:
    """Write `relative` (an .onnx file) and, beside it, a folder of weights.

    Groups that are already there are skipped, so an interrupted export continues where it was.

    Args:
        key: what the weights' content depends on.

    Returns:
        Whether anything was written.
    """
    folder = f"{Path(relative).with_suffix('')}.weights"
    paths = {name: f"{folder}/{name}.bin" for name in builder.weights}
    keys = {name: {**key, "recipe": RECIPE, "weights": [[value.name, str(value.dtype), list(value.shape)]
                                                        for value in group]}
            for name, group in builder.weights.items()}
    missing = [name for name in paths if not build.is_current(paths[name], keys[name])]
    if missing:
        total = sum(_layout(builder.weights[name])[1] for name in missing)
        with byte_progress(f"export {relative}", total) as progress:
            for name in missing:
                build.artifact(paths[name], keys[name],
                               lambda target, group=builder.weights[name]: _write(target, group, progress))
    for name, group in builder.weights.items():
        _refer_to_file(group, (build.path / relative).parent, f"{Path(folder).name}/{name}.bin")
    graph = hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()
    graph_key = {"graph": graph, "weights": {name: build.identity_of(path) for name, path in paths.items()}}
    return build.artifact(relative, graph_key, lambda target: ir.save(model, target)) or bool(missing)


def _refer_to_file(group: Sequence[ir.Value], base: Path, location: str) -> None:
    """Make the weights of a group references to their file."""
    for value, offset in zip(group, _layout(group)[0], strict=True):
        tensor = value.const_value
        value.const_value = ir.ExternalTensor(location, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape,
                                              name=tensor.name, base_dir=base)


def _layout(group: Sequence[ir.Value]) -> tuple[list[int], int]:
    """The offset of each weight of a group and the size of its file, in bytes."""
    offsets, end = [], 0
    for value in group:
        offset = math.ceil(end / ALIGNMENT) * ALIGNMENT
        offsets.append(offset)
        end = offset + value.const_value.nbytes
    return offsets, end


def _write(target: Path, group: Sequence[ir.Value], progress) -> None:
    with open(target, "wb") as stream:
        for value, offset in zip(group, _layout(group)[0], strict=True):
            progress.update(offset - stream.tell())
            stream.seek(offset)
            value.const_value.tofile(_Counted(stream, progress))


class _Counted:
    """A file that reports what is written to it."""

    def __init__(self, stream, progress):
        self._stream, self._progress = stream, progress

    def write(self, data: memoryview) -> int:
        self._progress.update(len(data))
        return self._stream.write(data)
