"""The ONNX function DeepstackAdd in ONNX Runtime on the GPU: one node of the exported decoder as a model of its own."""

from __future__ import annotations

import statistics

import onnx_ir as ir
import onnxruntime
import torch

from plugins.deepstack_add.onnx_function import (
    deepstack_add_attributes,
    deepstack_add_domain,
    deepstack_add_function,
)
from plugins.deepstack_add.operator import DOMAIN, NAME

OPSET, IR_VERSION = 23, 11
TYPES = {torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16}


class OnnxRuntimeFunction:
    """A session of that model, on torch's current stream."""

    def __init__(self, dtype: torch.dtype, hidden_size: int, *, level: int, vocab_size: int):
        self.element, self.session = TYPES[dtype], None
        function = deepstack_add_function(OPSET)
        values = [ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape)) for name, kind, shape in (
            ("hidden", self.element, ["tokens", hidden_size]), ("token_ids", ir.DataType.INT32, ["tokens"]),
            ("visual_rows", self.element, ["rows", hidden_size]), ("out", self.element, ["tokens", hidden_size]))]
        node = ir.node(NAME, values[:3], deepstack_add_attributes(level=level, vocab_size=vocab_size), domain=DOMAIN,
                       outputs=[values[3]])
        graph = ir.Graph(values[:3], [values[3]], nodes=[node], name=NAME,
                         opset_imports={"": OPSET, **deepstack_add_domain()})
        model = ir.Model(graph, ir_version=IR_VERSION, functions=[function])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        stream = {"user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}
        self.session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options,
                                                    providers=[("CUDAExecutionProvider", stream)])

    def bindings(self, hidden: torch.Tensor, token_ids: torch.Tensor, visual_rows: torch.Tensor, out: torch.Tensor):
        """One binding for each set of operands: [sets, ...] each, on the GPU."""
        bindings = []
        for index in range(len(hidden)):
            binding = self.session.io_binding()
            for name, tensor in (("hidden", hidden[index]), ("token_ids", token_ids[index]),
                                 ("visual_rows", visual_rows[index])):
                kind = ir.DataType.INT32 if name == "token_ids" else self.element
                binding.bind_input(name, "cuda", 0, int(kind), tuple(tensor.shape), tensor.data_ptr())
            binding.bind_output("out", "cuda", 0, int(self.element), tuple(out[index].shape), out[index].data_ptr())
            bindings.append(binding)
        return bindings

    def microseconds(self, bindings: list, *, calls: int = 32, repeats: int = 7) -> float:
        """Time of one call, the median over rounds of calls one after the other: up to some thousand tokens that of
        starting its operations, for ONNX Runtime starts them one by one."""
        times = []
        for repeat in range(repeats + 2):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for index in range(calls):
                self.session.run_with_iobinding(bindings[index % len(bindings)])
            end.record()
            end.synchronize()
            if repeat >= 2:
                times.append(start.elapsed_time(end) * 1000 / calls)
        return statistics.median(times)
