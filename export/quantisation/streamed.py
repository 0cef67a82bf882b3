"""Quantised weights as parts of a graph, computed while they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from export.graph import GraphBuilder
from export.quantisation.blocks import quantise_each
from qwen3vl.errors import CheckpointError


class StreamedBlocks:
    """Codes, scales and zero points of a stack of matrices, which are read and quantised one after the other.

    Codes are written first. What the same pass finds of scales and zero points, a fraction of their size, is kept until
    it is written too.

    Args:
        label: names the weight in errors.
        matrices: gives them anew at each call, each [N, K] of any floating type.
        bits, block: as in `quantise`.
    """

    def __init__(self, label: str, matrices: Callable[[], Iterator[np.ndarray]], bits: int, block: int):
        self._label, self._matrices, self._bits, self._block = label, matrices, bits, block
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []

    def add_to(self, builder: GraphBuilder, leading: tuple[int, ...], length: int,
               codes_shape: tuple[int, ...]) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Add the three weights to the builder's current group.

        Args:
            leading: all axes before the last, such as [E, N].
            length: K.
            codes_shape: how the packed codes are laid out.

        Returns:
            codes uint8, scales of the builder's type [*leading, K / b], zero points uint8 [*leading, packed K / b].
        """
        count = length // self._block
        packed = -(-count * self._bits // 8)
        codes = builder.weight(self._label, codes_shape, self._codes, ir.DataType.UINT8)
        scales = builder.weight(f"{self._label}.scales", (*leading, count), lambda: self._rest(0))
        zero_points = builder.weight(f"{self._label}.zero_points", (*leading, packed), lambda: self._rest(1),
                                     ir.DataType.UINT8)
        return codes, scales, zero_points

    def _codes(self) -> Iterator[np.ndarray]:
        self._kept = []
        try:
            for blocks in quantise_each(self._matrices(), self._bits, self._block):
                self._kept.append((blocks.scales, blocks.zero_points))
                yield blocks.codes
        except ValueError as error:
            raise CheckpointError(f"{self._label} cannot be quantised: {error}") from None

    def _rest(self, part: int) -> Iterator[np.ndarray]:
        if not self._kept:
            for _ in self._codes():
                pass
        yield from (kept[part] for kept in self._kept)
        if part == 1:
            self._kept = []
