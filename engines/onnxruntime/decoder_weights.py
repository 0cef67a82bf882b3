"""The exported decoder's weights in the layouts of the operators in plugins/decoder_kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from plugins.decoder_kernels.int4_rows import pack_rows, runs_of
from plugins.decoder_kernels.int8_rows import pack_rows as pack_int8_rows

ROWS_AT_ONCE = 4096


class DecoderWeights:
    """Adds them to the graph; they are read when the graph is written."""

    def __init__(self, graph: ir.Graph):
        self._graph = graph

    def rows(self, product: ir.Node) -> ir.Value:
        """The weights of a `MatMul` or `MatMulNBits` as rows [out, in] of the activations' type."""
        if product.op_type == "MatMulNBits":
            return self._dequantised(product)
        weights = product.inputs[1]
        if weights.producer() is not None:  # a transposed table, which is rows
            return weights.producer().inputs[0]
        tensor = _tensor(weights)
        if len(tensor.shape) != 2:
            raise ValueError(f"{weights.name} is not a matrix of weights")
        shape = tuple(reversed(tensor.shape.numpy()))
        return self._add(f"{weights.name}.rows", tensor.dtype, shape, lambda: np.ascontiguousarray(tensor.numpy().T))

    def int4_rows(self, product: ir.Node) -> list[ir.Value]:
        """Codes uint8 [out, in / 2] in the kernels' order, and blocks [out, in / block, 2], of a `MatMulNBits`."""
        _require_4_bits(product, "bits")
        codes, scales, zero_points = product.inputs[1:4]
        rows, length = product.attributes["N"].as_int(), product.attributes["K"].as_int()
        return self._int4(codes, scales, zero_points, (rows, length))

    def int8_rows(self, product: ir.Node) -> list[ir.Value]:
        """Codes uint8 [out, in] in the kernels' order, and blocks [out, in / block, 2]: `MatMulNBits` of 8 bits."""
        rows, length = product.attributes["N"].as_int(), product.attributes["K"].as_int()
        return self._coded(*product.inputs[1:4], (rows, length), _bytes, pack_int8_rows)

    def int4_experts(self, experts: ir.Node) -> list[ir.Value]:
        """Codes and blocks of gates and ups, then of downs, of a `QMoE`: [experts, out, ...]."""
        _require_4_bits(experts, "expert_weight_bits")
        added = []
        for codes, scales, zero_points in ((2, 3, 11), (5, 6, 12)):
            *leading, packed = _tensor(experts.inputs[codes]).shape.numpy()
            added += self._int4(*(experts.inputs[i] for i in (codes, scales, zero_points)), (*leading, 2 * packed))
        return added

    def _int4(self, codes: ir.Value, scales: ir.Value, zero_points: ir.Value, shape: tuple[int, ...]) -> list[ir.Value]:
        try:
            runs_of(shape[-1])
        except ValueError as error:
            raise ValueError(f"{codes.name}: {error}; export with --precision fp16 or bf16") from None
        *leading, length = shape
        return self._coded(codes, scales, zero_points, (*leading, length // 2), _nibbles, pack_rows)

    def _coded(self, codes: ir.Value, scales: ir.Value, zero_points: ir.Value, shape: tuple[int, ...],
               unpack: Callable[[np.ndarray], np.ndarray], pack: Callable[[np.ndarray], np.ndarray]) -> list[ir.Value]:
        """Codes uint8 of this shape in the kernels' order, and blocks [*leading, count, 2].

        Args:
            unpack: stored bytes to codes or zero points, one a byte.
            pack: codes to the kernels' order.
        """
        *leading, size = shape
        stored, by_block, zeros = map(_tensor, (codes, scales, zero_points))
        count = by_block.shape[-1]

        def in_kernel_order() -> np.ndarray:
            natural = stored.numpy().reshape(-1, size)
            packed = np.empty_like(natural)
            for start in range(0, len(natural), ROWS_AT_ONCE):
                part = slice(start, start + ROWS_AT_ONCE)
                packed[part] = pack(unpack(natural[part]))
            return packed.reshape(shape)

        def blocks() -> np.ndarray:
            each = by_block.numpy()
            return np.stack([each, unpack(zeros.numpy())[..., :count].astype(each.dtype)], axis=-1)

        return [self._add(f"{codes.name}.kernel_order", ir.DataType.UINT8, shape, in_kernel_order),
                self._add(f"{codes.name}.blocks", by_block.dtype, (*leading, count, 2), blocks)]

    def _dequantised(self, product: ir.Node) -> ir.Value:
        codes, scales, zero_points = map(_tensor, product.inputs[1:4])
        bits, count = product.attributes["bits"].as_int(), scales.shape[-1]
        rows, length = product.attributes["N"].as_int(), product.attributes["K"].as_int()
        values = _nibbles if bits == 4 else _bytes

        def wide() -> np.ndarray:
            each, stored, zeros = scales.numpy(), codes.numpy(), zero_points.numpy()
            weights = np.empty((rows, count, length // count), each.dtype)
            for start in range(0, rows, ROWS_AT_ONCE):
                part = slice(start, start + ROWS_AT_ONCE)
                centred = values(stored[part]) - values(zeros[part])[:, :count, None].astype(np.float32)
                weights[part] = centred * each[part, :, None].astype(np.float32)
            return weights.reshape(rows, length)

        return self._add(f"{product.inputs[1].name}.rows", scales.dtype, (rows, length), wide)

    def _add(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], values: Callable[[], np.ndarray]) -> ir.Value:
        tensor = ir.LazyTensor(lambda: ir.Tensor(values(), dtype=dtype), dtype, ir.Shape(shape), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _tensor(weights: ir.Value | None) -> ir.TensorProtocol:
    if weights is None or weights.const_value is None:
        raise ValueError(f"{weights and weights.name} is not a weight of the graph")
    return weights.const_value


def _require_4_bits(node: ir.Node, attribute: str) -> None:
    bits = node.attributes[attribute].as_int()
    if bits != 4:
        raise ValueError(f"{node.name} has weights of {bits} bits, expected 4: export with --precision int4, or with "
                         "fp16 or bf16 for weights of the activations' type")


def _bytes(packed: np.ndarray) -> np.ndarray:
    """Values of 8 bits."""
    return packed


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Values of 4 bits, the first of a byte in its lower half: uint8 [..., n] to [..., 2 n]."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
