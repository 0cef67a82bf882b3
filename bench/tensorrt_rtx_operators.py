"""What TensorRT for RTX takes of the decoder graph, operator by operator, at the shapes of Qwen3-VL-30B-A3B.

    python -m bench.tensorrt_rtx_operators --output bench/results/tensorrt_rtx_operators.json

Each operator is parsed and built for compute capability 8.9 as a graph of its own, with made-up weights; beside what
the exported decoder uses stand the forms that a decoder for TensorRT would use instead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import tensorrt_rtx as trt

from bench.environment import describe_machine
from engines.tensorrt.messages import message_log
from export.exporter import PRECISIONS
from export.graph import CONTRIBUTED, GraphBuilder, value
from plugins.deepstack_add.onnx_function import deepstack_add_domain, deepstack_add_function
from plugins.deepstack_add.operator import DOMAIN, NAME

HIDDEN, QUERIES, KEYS, HEAD, EXPERTS, CHOSEN, INNER, VOCABULARY = 2048, 32, 4, 128, 128, 8, 768, 151936
CAPACITY = 2048
# Least, preferred and largest size of each symbolic dimension.
SIZES = {"batch": (1, 1, 8), "tokens": (1, 512, 2048), "rows": (1, 64, 8192), "capacity": (2048, 2048, 4096),
         "past": (1, 512, 2048), "few": (1, 1, 8)}

Input = tuple[str, ir.DataType, list]
Case = tuple[str, list[Input], Callable, int]


class OperatorCases:
    """Graphs of one operator, or of the few that stand for one, in an element type."""

    def __init__(self, dtype: ir.DataType):
        self.dtype = dtype

    def weight(self, g: GraphBuilder, name: str, *shape: int) -> ir.Value:
        def chunks() -> Iterator[np.ndarray]:
            yield (np.random.default_rng(len(name)).standard_normal(shape, np.float32) * 0.02)

        return g.weight(name, shape, chunks)

    def cases(self) -> Iterator[Case]:
        t, int32, int64, boolean = self.dtype, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL
        x, tokens = ("x", t, ["batch", "tokens", HIDDEN]), ("x", t, ["tokens", HIDDEN])
        ids, few = ("ids", int32, ["batch", "tokens"]), ("x", t, ["few", HIDDEN])
        q, k, v = ((name, t, ["batch", "tokens", heads * HEAD]) for name, heads in
                   (("q", QUERIES), ("k", KEYS), ("v", KEYS)))
        past = [(f"past_{name}", t, ["batch", KEYS, "past", HEAD]) for name in ("key", "value")]
        growing = [(f"past_{name}", t, ["batch", KEYS, "capacity", HEAD]) for name in ("key", "value")]
        fixed = [(f"past_{name}", t, ["batch", KEYS, CAPACITY, HEAD]) for name in ("key", "value")]
        lengths, start = ("lengths", int64, ["batch"]), ("start", int64, ["batch"])
        angles = [(name, t, ["batch", "tokens", HEAD // 2]) for name in ("cos", "sin")]
        yield "embedding: Gather, Less, Where, CastLike, Unsqueeze", [ids], self.embedding, 23
        yield "DeepstackAdd, expanded from its function", [x, ids, ("table", t, ["rows", HIDDEN])], self.deepstack, 23
        yield "RMSNormalization", [x], self.rms_norm, 23
        yield "RotaryEmbedding", [q, *angles], self.rotary, 23
        yield "com.microsoft.GroupQueryAttention", [
            q, k, v, *growing, ("last", int32, ["batch"]), ("longest", int32, [])], self.group_query_attention, 23
        yield "com.microsoft.MoE", [tokens], self.moe, 23
        yield "instead: Attention, causal, without a past", [q, k, v], self.attention, 23
        yield "instead: Attention with past and present", [q, k, v, *past], self.attention_past, 23
        yield "instead: TensorScatter, capacity dynamic", [
            growing[0], ("new", t, ["batch", KEYS, "tokens", HEAD]), start], self.scatter, 24
        yield f"instead: TensorScatter, capacity {CAPACITY}", [
            fixed[0], ("new", t, ["batch", KEYS, "tokens", HEAD]), start], self.scatter, 24
        yield "instead: TensorScatter and Attention with a mask", [
            q, k, v, *fixed, start, ("mask", boolean, ["batch", 1, "tokens", CAPACITY])], self.cached_mask, 24
        yield "instead: TensorScatter and causal Attention with nonpad_kv_seqlen", [
            q, k, v, *fixed, start, lengths], self.cached_lengths, 24
        yield "instead: router of Softmax and TopK", [tokens], lambda g, x: self.router(g, x)[0], 23
        yield "instead: all 128 experts for every token, MatMul", [tokens], self.dense_experts, 23
        yield "instead: 8 gathered experts, 1 to 8 tokens", [few], self.gathered_experts, 23
        yield "instead: TRT_MoE", [tokens], self.trt_moe, 23

    def embedding(self, g, ids):
        ordinary = g.op("Less", ids, g.constant(np.int32(VOCABULARY)))
        word = g.op("Gather", self.weight(g, "table", VOCABULARY, HIDDEN),
                    g.op("Where", ordinary, ids, g.constant(np.int32(0))))
        zero = g.op("CastLike", g.constant(np.float32(0)), word)
        return g.op("Where", g.op("Unsqueeze", ordinary, g.constant([-1])), word, zero)

    def deepstack(self, g, x, ids, table):
        return g.op(NAME, x, ids, table, domain=DOMAIN, level=1, vocab_size=VOCABULARY)

    def rms_norm(self, g, x):
        return g.op("RMSNormalization", x, self.weight(g, "scale", HIDDEN), axis=-1, epsilon=1e-6)

    def rotary(self, g, x, cos, sin):
        return g.op("RotaryEmbedding", x, cos, sin, num_heads=QUERIES)

    def group_query_attention(self, g, *inputs):
        return g.op("GroupQueryAttention", *inputs, domain=CONTRIBUTED, num_heads=QUERIES, kv_num_heads=KEYS,
                    scale=HEAD**-0.5, outputs=["attended", "present_key", "present_value"])

    def moe(self, g, x):
        return g.op("MoE", x, g.op("MatMul", x, self.weight(g, "router", HIDDEN, EXPERTS)),
                    self.weight(g, "gate_up", EXPERTS, 2 * INNER, HIDDEN), None,
                    self.weight(g, "down", EXPERTS, HIDDEN, INNER), domain=CONTRIBUTED, k=CHOSEN,
                    normalize_routing_weights=1, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0,
                    activation_beta=0.0)

    def attention(self, g, q, k, v):
        return g.op("Attention", q, k, v, q_num_heads=QUERIES, kv_num_heads=KEYS, scale=HEAD**-0.5, is_causal=1)

    def attention_past(self, g, q, k, v, past_key, past_value):
        return g.op("Attention", q, k, v, None, past_key, past_value, q_num_heads=QUERIES, kv_num_heads=KEYS,
                    scale=HEAD**-0.5, is_causal=1, outputs=["attended", "present_key", "present_value"])

    def scatter(self, g, cache, new, start):
        return g.op("TensorScatter", cache, new, start, axis=-2, mode="linear")

    def cached_mask(self, g, q, k, v, keys, values, start, mask):
        q, keys, values = self.cached(g, q, k, v, keys, values, start)
        return g.op("Attention", q, keys, values, mask, scale=HEAD**-0.5), keys, values

    def cached_lengths(self, g, q, k, v, keys, values, start, lengths):
        q, keys, values = self.cached(g, q, k, v, keys, values, start)
        attended = g.op("Attention", q, keys, values, None, None, None, lengths, scale=HEAD**-0.5, is_causal=1)
        return attended, keys, values

    def cached(self, g, q, k, v, keys, values, start):
        q, k, v = (g.op("Transpose", g.op("Reshape", x, g.constant([0, 0, heads, HEAD])), perm=[0, 2, 1, 3])
                   for x, heads in ((q, QUERIES), (k, KEYS), (v, KEYS)))
        return q, self.scatter(g, keys, k, start), self.scatter(g, values, v, start)

    def router(self, g, x):
        """Weights and indices of the chosen experts, [T, 8]."""
        logits = g.cast(g.op("MatMul", x, self.weight(g, "router", HIDDEN, EXPERTS)), ir.DataType.FLOAT)
        best, chosen = g.op("TopK", logits, g.constant([CHOSEN]), axis=-1, outputs=["best", "chosen"])
        return g.cast(g.op("Softmax", best, axis=-1), self.dtype), chosen

    def swiglu(self, g, x):
        gate, up = g.op("Split", x, axis=-1, num_outputs=2, outputs=["gate_half", "up_half"])
        return g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)

    def dense_experts(self, g, x):
        weights, chosen = self.router(g, x)
        shape = g.op("Concat", g.op("Shape", x, start=0, end=1), g.constant([EXPERTS]), axis=0)
        none = g.op("CastLike", g.op("Expand", g.constant(np.float32(0)), shape), weights)
        shares = g.op("Transpose", g.op("ScatterElements", none, chosen, weights, axis=-1), perm=[1, 0])
        inner = g.op("MatMul", g.op("Unsqueeze", x, g.constant([0])), self.weight(g, "up", EXPERTS, HIDDEN, 2 * INNER))
        given = g.op("MatMul", self.swiglu(g, inner), self.weight(g, "down", EXPERTS, INNER, HIDDEN))
        return g.op("ReduceSum", g.op("Mul", given, g.op("Unsqueeze", shares, g.constant([-1]))), g.constant([0]),
                    keepdims=0)

    def gathered_experts(self, g, x):
        weights, chosen = self.router(g, x)
        up, down = (g.op("Gather", self.weight(g, name, *shape), chosen, axis=0) for name, shape in
                    (("up", (EXPERTS, HIDDEN, 2 * INNER)), ("down", (EXPERTS, INNER, HIDDEN))))
        inner = g.op("MatMul", g.op("Reshape", x, g.constant([-1, 1, 1, HIDDEN])), up)
        given = g.op("MatMul", self.swiglu(g, inner), down)
        shares = g.op("Unsqueeze", weights, g.constant([2, 3]))
        return g.op("Reshape", g.op("ReduceSum", g.op("Mul", given, shares), g.constant([1]), keepdims=0),
                    g.constant([-1, HIDDEN]))

    def trt_moe(self, g, x):
        weights, chosen = self.router(g, x)
        batch = g.constant([0])
        return g.op("TRT_MoE", g.op("Unsqueeze", x, batch), g.cast(g.op("Unsqueeze", chosen, batch), ir.DataType.INT32),
                    g.op("Unsqueeze", weights, batch), self.weight(g, "gate", EXPERTS, HIDDEN, INNER),
                    self.weight(g, "up", EXPERTS, HIDDEN, INNER), self.weight(g, "down", EXPERTS, INNER, HIDDEN),
                    domain="trt")


def graph_of(dtype: ir.DataType, inputs: Sequence[Input], body: Callable, opset: int) -> ir.Model:
    builder = GraphBuilder(dtype)
    values = [value(*item) for item in inputs]
    result = body(builder, *values)
    outputs = [result] if isinstance(result, ir.Value) else list(result)
    for output in outputs:
        output.type = ir.TensorType(dtype)
    used = {node.domain for node in builder.nodes} - {"", DOMAIN}
    domains = {**deepstack_add_domain(), **dict.fromkeys(used, 1)}
    model = builder.model("operator", values, outputs, [deepstack_add_function(opset)], domains)
    model.graph.opset_imports[""] = opset
    return model


def verdict(model: ir.Model, folder: Path) -> tuple[str, str]:
    """"built", "not built" or "not parsed", and TensorRT's reason."""
    log = message_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    ir.save(model, folder / "operator.onnx")
    if not parser.parse_from_file(str(folder / "operator.onnx")):
        return "not parsed", parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        shapes = [tuple(SIZES[tensor.get_dimension_name(axis)][kind] if size == -1 else size
                        for axis, size in enumerate(tensor.shape)) for kind in range(3)]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return ("not built", log.errors[0]) if builder.build_serialized_network(network, config) is None else ("built", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp16", "bf16"):
            for name, inputs, body, opset in OperatorCases(PRECISIONS[precision]).cases():
                outcome, reason = verdict(graph_of(PRECISIONS[precision], inputs, body, opset), Path(folder))
                results.append({"operator": name, "precision": precision, "outcome": outcome,
                                **({"reason": reason[:240]} if reason else {})})
                print(f"{precision}  {outcome:<10}  {name}  {reason[:160]}", flush=True)
    report = {**describe_machine(), "tensorrt_rtx": version("tensorrt-rtx"), "compute_capability": "8.9",
              "results": results}
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
