"""Building ONNX graphs whose weights stay in the checkpoint until they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

OPSET = 23
IR_VERSION = 11
CONTRIBUTED = "com.microsoft"


class _ChunkedWeight:
    """What an `ir.LazyTensor` evaluates to: a weight that goes to its file chunk by chunk, never whole in memory."""

    def __init__(self, chunks: Callable[[], Iterator[np.ndarray]], dtype: np.dtype, shape: tuple[int, ...]):
        self._chunks, self._dtype, self._shape = chunks, dtype, shape

    def _converted(self) -> Iterator[np.ndarray]:
        return (np.ascontiguousarray(chunk, dtype=self._dtype) for chunk in self._chunks())

    def numpy(self) -> np.ndarray:
        return np.concatenate(list(self._converted())).reshape(self._shape)

    def tobytes(self) -> bytes:
        return self.numpy().tobytes()

    def tofile(self, file: BinaryIO) -> None:
        for chunk in self._converted():
            file.write(memoryview(chunk.reshape(-1).view(np.uint8)))


@dataclass
class GraphBuilder:
    """Collects the nodes, constants and weights of one graph.

    `dtype` is the element type of activations and weights. Weights belong to the group that is current when they are
    added (`group`), one data file a group.
    """

    dtype: ir.DataType
    group: str = "model"
    nodes: list[ir.Node] = field(default_factory=list)
    weights: dict[str, list[ir.Value]] = field(default_factory=dict)
    constants: dict[str, ir.Value] = field(default_factory=dict)

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", outputs: Sequence[str] | None = None,
           **attributes) -> ir.Value | Sequence[ir.Value]:
        """Append a node. Returns its output, or the list of outputs where `outputs` names them."""
        names = outputs or [f"{op_type}_{len(self.nodes)}"]
        node = ir.node(op_type, list(inputs), attributes, domain=domain, outputs=[ir.val(name) for name in names],
                       name=f"{op_type}_{len(self.nodes)}")
        self.nodes.append(node)
        return node.outputs if outputs else node.outputs[0]

    def constant(self, value: np.ndarray | Sequence[int], name: str | None = None) -> ir.Value:
        """A small constant of the array's own dtype; equal constants are shared."""
        array = np.asarray(value)
        key = name or f"const_{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(map(str, array.ravel()))}"
        if key not in self.constants:
            tensor = ir.Tensor(array, name=key)
            self.constants[key] = ir.Value(name=key, shape=tensor.shape, type=ir.TensorType(tensor.dtype),
                                           const_value=tensor)
        return self.constants[key]

    def weight(self, name: str, shape: Sequence[int], chunks: Callable[[], Iterator[np.ndarray]],
               dtype: ir.DataType | None = None) -> ir.Value:
        """A weight of the current group, read only when it is written.

        `chunks` returns, anew at each call, arrays that concatenate along the first axis to `shape`.
        """
        dtype, shape = dtype or self.dtype, tuple(shape)
        tensor = ir.LazyTensor(lambda: _ChunkedWeight(chunks, dtype.numpy(), shape), dtype, ir.Shape(shape), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.weights.setdefault(self.group, []).append(value)
        return value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self.op("Cast", value, to=int(dtype))

    def linear(self, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
        """`x @ weight + bias`, weight [in, out]."""
        product = self.op("MatMul", x, weight)
        return product if bias is None else self.op("Add", product, bias)

    def model(self, name: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value],
              functions: Sequence[ir.Function] = (), domains: dict[str, int] | None = None) -> ir.Model:
        weights = [value for group in self.weights.values() for value in group]
        graph = ir.Graph(inputs, outputs, nodes=self.nodes, name=name, opset_imports={"": OPSET, **(domains or {})},
                         initializers=[*self.constants.values(), *weights])
        return ir.Model(graph, ir_version=IR_VERSION, functions=functions, producer_name="qwen3vl-triton")


def value(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    """A graph input or output with symbolic dimensions by name."""
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
