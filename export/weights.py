"""Checkpoint tensors in the layouts that the graphs use, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from export.graph import GraphBuilder
from export.quantisation.streamed import StreamedBlocks
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.errors import CheckpointError
from qwen3vl.fused_experts import FusedExperts

CHUNK_VALUES = 16 * 1024 * 1024


class CheckpointWeights:
    """Adds weights of one checkpoint to a graph. Every method takes checkpoint names and checks their shapes now."""

    def __init__(self, checkpoint: Checkpoint, builder: GraphBuilder):
        self.checkpoint, self.builder = checkpoint, builder
        self._tables: dict[str, ir.Value] = {}

    def plain(self, name: str, shape: Sequence[int], stored: Sequence[int] | None = None, *,
              factor: float = 1.0) -> ir.Value:
        """The tensor times `factor`, as stored, or reshaped to `shape` where it is stored as `stored`."""
        self._expect(name, stored or shape)

        def chunks() -> Iterator[np.ndarray]:
            values = self.checkpoint.read(name).reshape(shape)
            yield values if factor == 1 else values.astype(np.float32) * np.float32(factor)

        return self.builder.weight(name, shape, chunks)

    def table(self, name: str, shape: tuple[int, int]) -> ir.Value:
        """A large two-dimensional tensor as stored, such as an embedding."""
        self._expect(name, shape)
        self._tables[name] = self.builder.weight(name, shape, lambda: _row_chunks(self.checkpoint.read(name)))
        return self._tables[name]

    def table_if_present(self, name: str) -> ir.Value | None:
        """What `table` gave for this name, None if it was not asked for."""
        return self._tables.get(name)

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
                yield _interleaved(experts.gate_up(expert))[None]

        return self.builder.weight(experts.gate_up_name, (experts.count, rows, hidden), chunks)

    def experts_down(self, experts: FusedExperts) -> ir.Value:
        """Down projections: [E, H, I]."""
        return self.builder.weight(experts.down_name, (experts.count, *experts.down_shape),
                                   lambda: (experts.down(expert)[None] for expert in range(experts.count)))

    def quantised_matrix(self, label: str, names: Sequence[str], inputs: int, outputs: Sequence[int], bits: int,
                         block: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Linear weights [out, in], one after the other, as `MatMulNBits` takes them (N = sum(outputs), K = inputs).

        Returns:
            codes uint8 [N, K / block, block * bits / 8], scales [N, K / block], zero points uint8 [N, packed].
        """
        for name, out in zip(names, outputs, strict=True):
            self._expect(name, (out, inputs))
        rows, count = sum(outputs), inputs // block
        blocks = StreamedBlocks(label, lambda: (chunk for name in names
                                                for chunk in _row_chunks(self.checkpoint.read(name))), bits, block)
        return blocks.add_to(self.builder, (rows,), inputs, (rows, count, block * bits // 8))

    def quantised_gate_up(self, experts: FusedExperts, bits: int, block: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """`experts_gate_up` as `QMoE` takes it: codes uint8 [E, 2I, H * bits / 8], scales and zero points."""
        return self._quantised_experts(experts.gate_up_name, experts.count, experts.gate_up_shape,
                                       lambda expert: _interleaved(experts.gate_up(expert)), bits, block)

    def quantised_down(self, experts: FusedExperts, bits: int, block: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """`experts_down` as `QMoE` takes it: codes uint8 [E, H, I * bits / 8], scales and zero points."""
        return self._quantised_experts(experts.down_name, experts.count, experts.down_shape, experts.down, bits, block)

    def _quantised_experts(self, name: str, count: int, shape: tuple[int, int], read: Callable[[int], np.ndarray],
                           bits: int, block: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        rows, length = shape
        blocks = StreamedBlocks(name, lambda: map(read, range(count)), bits, block)
        return blocks.add_to(self.builder, (count, rows), length, (count, rows, length * bits // 8))

    def _expect(self, name: str, shape: Sequence[int]) -> None:
        found = tuple(self.checkpoint.shape(name))
        if found != tuple(shape):
            raise CheckpointError(f"{name} has shape {list(found)}, but config.json implies {list(shape)}")


def _interleaved(gate_then_up: np.ndarray) -> np.ndarray:
    """[2I, H]: all gates, then all ups, to g0, u0, g1, u1, ..."""
    rows, hidden = gate_then_up.shape
    return gate_then_up.reshape(2, rows // 2, hidden).swapaxes(0, 1).reshape(rows, hidden)


def _row_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, CHUNK_VALUES // array.shape[1])
    for start in range(0, len(array), step):
        yield array[start : start + step]
