"""Checkpoint tensors in the layouts that the graphs use, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from export.graph import GraphBuilder
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.errors import CheckpointError
from qwen3vl.fused_experts import FusedExperts

CHUNK_VALUES = 16 * 1024 * 1024


class CheckpointWeights:
    """Adds weights of one checkpoint to a graph. Every method takes checkpoint names and checks their shapes now."""

    def __init__(self, checkpoint: Checkpoint, builder: GraphBuilder):
        self.checkpoint, self.builder = checkpoint, builder

    def plain(self, name: str, shape: Sequence[int], stored: Sequence[int] | None = None) -> ir.Value:
        """The tensor as stored, or reshaped to `shape` where it is stored as `stored`."""
        self._expect(name, stored or shape)
        return self.builder.weight(name, shape, lambda: iter([self.checkpoint.read(name).reshape(shape)]))

    def table(self, name: str, shape: tuple[int, int]) -> ir.Value:
        """A large two-dimensional tensor as stored, such as an embedding."""
        self._expect(name, shape)
        return self.builder.weight(name, shape, lambda: _row_chunks(self.checkpoint.read(name)))

    def matrix(self, label: str, names: Sequence[str], inputs: int, outputs: Sequence[int],
               stored: Sequence[int] | None = None) -> ir.Value:
        """Linear weights [out, in], side by side and transposed: [inputs, sum(outputs)].

        `stored` is the shape in the checkpoint where it is not [out, in], such as a convolution's.
        """
        for name, out in zip(names, outputs, strict=True):
            self._expect(name, stored or (out, inputs))

        def chunks() -> Iterator[np.ndarray]:
            parts = [self.checkpoint.read(name).reshape(-1, inputs).T for name in names]
            step = max(1, CHUNK_VALUES // sum(outputs))
            for start in range(0, inputs, step):
                yield np.concatenate([part[start : start + step] for part in parts], axis=1)

        return self.builder.weight(label, (inputs, sum(outputs)), chunks)

    def vector(self, label: str, names: Sequence[str], sizes: Sequence[int]) -> ir.Value:
        """Vectors one after the other: [sum(sizes)]."""
        for name, size in zip(names, sizes, strict=True):
            self._expect(name, (size,))
        return self.builder.weight(label, (sum(sizes),), lambda: (self.checkpoint.read(name) for name in names))

    def experts_gate_up(self, experts: FusedExperts) -> ir.Value:
        """Fused gate and up projections, their rows interleaved (g0, u0, g1, u1, ...): [E, 2I, H].

        ONNX Runtime's CPU kernel takes SwiGLU in this order only (`swiglu_fusion=1`).
        """
        rows, hidden = experts.gate_up_shape

        def chunks() -> Iterator[np.ndarray]:
            for expert in range(experts.count):
                gate_then_up = experts.gate_up(expert).reshape(2, rows // 2, hidden)
                yield gate_then_up.swapaxes(0, 1).reshape(1, rows, hidden)

        return self.builder.weight(experts.gate_up_name, (experts.count, rows, hidden), chunks)

    def experts_down(self, experts: FusedExperts) -> ir.Value:
        """Down projections: [E, H, I]."""
        return self.builder.weight(experts.down_name, (experts.count, *experts.down_shape),
                                   lambda: (experts.down(expert)[None] for expert in range(experts.count)))

    def _expect(self, name: str, shape: Sequence[int]) -> None:
        found = tuple(self.checkpoint.shape(name))
        if found != tuple(shape):
            raise CheckpointError(f"{name} has shape {list(found)}, but config.json implies {list(shape)}")


def _row_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, CHUNK_VALUES // array.shape[1])
    for start in range(0, len(array), step):
        yield array[start : start + step]
