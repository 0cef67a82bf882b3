"""ONNX model-local functions, written as Python functions that append nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir


class FunctionBody:
    """The nodes of one function.

    Args:
        attributes: types of the function's attributes.
    """

    def __init__(self, attributes: Mapping[str, ir.AttributeType]):
        self.nodes: list[ir.Node] = []
        self._attributes = attributes

    def op(self, op_type: str, *inputs: ir.Value | None, count: int = 1, domain: str = "",
           of_function: Mapping[str, str] | None = None, **values) -> ir.Value | tuple[ir.Value, ...]:
        """Append a node.

        Args:
            count: of its outputs.
            of_function: its attributes that are those of the function, by the names of both.
            values: its other attributes.
        """
        node = ir.node(op_type, inputs, values, num_outputs=count, domain=domain)
        for own, name in (of_function or {}).items():
            node.attributes.add(ir.RefAttr(own, name, self._attributes[name]))
        self.nodes.append(node)
        return node.outputs[0] if count == 1 else tuple(node.outputs)

    def integers(self, *values: int) -> ir.Value:
        """A constant, int64 [n]."""
        return self.op("Constant", value_ints=list(values))

    def attribute_integer(self, attribute: str) -> ir.Value:
        """An attribute of the function as int64 [1]."""
        return self.op("Reshape", self.op("Constant", of_function={"value_int": attribute}), self.integers(1))


def onnx_function(domain: str, name: str, inputs: Sequence[str],
                  body: Callable[..., ir.Value | Sequence[ir.Value]], opset: int,
                  attributes: Mapping[str, ir.AttributeType] | None = None,
                  defaults: Mapping[str, str] | None = None) -> ir.Function:
    """A function of standard operators of the given opset, and version 1 of other domains' that it uses.

    Args:
        body: is given a `FunctionBody` and the inputs, and returns the output or outputs: `out`, or `out_0` and so on.
        attributes: types of the attributes that a node must have.
        defaults: texts of the attributes that it may leave out.
    """
    attributes = attributes or {}
    values, nodes = [ir.val(name) for name in inputs], FunctionBody(attributes)
    outputs = body(nodes, *values)
    if isinstance(outputs, ir.Value):
        outputs.name, outputs = "out", [outputs]
    else:
        for index, out in enumerate(outputs):
            out.name = f"out_{index}"
    imports = {"": opset, **{node.domain: 1 for node in nodes.nodes if node.domain}}
    graph = ir.Graph(values, list(outputs), nodes=nodes.nodes, opset_imports=imports, name=name)
    required = [ir.Attr(attribute, kind, None) for attribute, kind in attributes.items()]
    defaulted = [ir.Attr(attribute, ir.AttributeType.STRING, text) for attribute, text in (defaults or {}).items()]
    return ir.Function(domain, name, "", graph=graph, attributes=[*required, *defaulted])
