"""The exported decoder with ONNX Runtime's own operators, so that CUDA graphs can hold it."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir


def use_own_operators(model: ir.Model) -> None:
    """Rewrite the exported decoder in place. Its inputs and outputs stay as they are.

    Raises:
        ValueError: its experts are of few bits, whose order in memory is another one in the kernel for GPUs.
    """
    if quantised := [node for node in model.graph if node.op_type == "QMoE"]:
        raise ValueError(f"ONNX Runtime's kernel for {quantised[0].name} takes another order of bits on a GPU than on "
                         "a CPU: build with --decoder-kernels, or export with --precision fp16 or bf16")
    cut_by_slices(model)


def cut_by_slices(model: ir.Model) -> int:
    """Turn every `Split` along the last axis into `Slice`s. Returns how many.

    The CUDA kernel of a split into unequal parts sends itself their sizes from a host buffer that it then gives back:
    a captured copy would read it again, long after. A slice has its numbers among the kernel's arguments.
    """
    splits = [node for node in model.graph if node.op_type == "Split"]
    for node in splits:
        source, sizes = node.inputs
        edges = [0, *itertools.accumulate(sizes.const_value.numpy().tolist())]
        slices = [ir.node("Slice", [source, *(_integer(model, number) for number in (start, end, -1))],
                          name=f"{output.name}.slice")
                  for output, (start, end) in zip(node.outputs, itertools.pairwise(edges), strict=True)]
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], slices, node.outputs,
                                                [part.outputs[0] for part in slices])
    return len(splits)


def _integer(model: ir.Model, number: int) -> ir.Value:
    """A constant, int64 [1]."""
    name = f"slice.int64.{number}"
    if name not in model.graph.initializers:
        tensor = ir.Tensor(np.array([number], np.int64), name=name)
        model.graph.register_initializer(ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype),
                                                  const_value=tensor))
    return model.graph.initializers[name]
