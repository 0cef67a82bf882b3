"""A whole prompt through all 48 layers by the kernels of a chunk: milliseconds, and what of them is not the experts'.

    python -m bench.decoder_cuda.prefill --kernels libdecoder_kernels.so --output out.json

attention_prefill, products_prefill and experts_prefill check the kernels one by one; here it is checked that they don't
overtake each other: the result has to be, bit for bit, that of waiting for each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from bench.cuda_timing import graph_of, milliseconds
from bench.decoder_cuda.model import Head, Layer, Shape, element_type, random_cache, random_head, random_layer
from bench.decoder_cuda.record import Record, parser
from bench.decoder_cuda.watch import watched
from plugins.decoder_kernels.kernel_library import DecoderKernels

GOALS_MS = {1024: 22, 2048: 35}
WORKSPACE = 32 << 20


class Prefill:
    """Puts a chunk's kernels on the current stream. Every buffer is NaN or -1 until it is written."""

    def __init__(self, kernels: DecoderKernels, shape: Shape, tokens: int, past: int, dtype: torch.dtype):
        s = shape

        def unwritten(*sizes: int, of: torch.dtype = dtype) -> torch.Tensor:
            return torch.full(sizes, torch.nan, device="cuda", dtype=of)

        self.kernels, self.shape, self.tokens = kernels, shape, tokens
        self.type = element_type(dtype)
        self.after_each: Callable[[], None] = lambda: None
        self.h = torch.randn(tokens, s.hidden, device="cuda", dtype=dtype)
        self.start = self.h.clone()
        self.normed, self.qkv = unwritten(tokens, s.hidden), unwritten(tokens, s.qkv)
        self.attended = unwritten(tokens, s.heads * s.head_size)
        self.y = unwritten(tokens * s.chosen, s.hidden)
        self.logits = unwritten(1, s.vocabulary, of=torch.float32)
        self.chosen = torch.full((tokens, s.chosen), -1, device="cuda", dtype=torch.int32)
        self.chosen_weights = unwritten(tokens, s.chosen, of=torch.float32)
        self.counters = torch.zeros(256, device="cuda", dtype=torch.int32)
        experts = kernels.workspace("experts_prefill", tokens, s.chosen)
        self.workspace = torch.full((max(WORKSPACE, experts),), 0xFF, device="cuda", dtype=torch.uint8)
        angles = torch.rand(tokens, s.head_size // 2, device="cuda") * 6.28
        self.cosines, self.sines = angles.cos(), angles.sin()
        self.total = torch.tensor([past + tokens], device="cuda", dtype=torch.int32)

    def dense(self, layer: Layer, keys: torch.Tensor, values: torch.Tensor) -> None:
        """From `normed` and `h` to `h` with the layer's attention."""
        s = self.shape
        self._product(self.qkv, self.normed, None, layer.qkv)
        self._call("prefill_attention", self.attended, self.qkv, layer.query_norm, layer.key_norm, self.cosines,
                   self.sines, keys, values, self.total, self.tokens, s.heads, s.kv_heads, s.head_size, keys.shape[2],
                   s.epsilon, s.head_size**-0.5, self.type)
        self._product(self.h, self.attended, self.h, layer.output)

    def experts(self, layer: Layer) -> None:
        s = self.shape
        self._call("router", self.normed, self.chosen, self.chosen_weights, self.counters, len(self.counters), self.h,
                   layer.expert_norm, layer.router, self.tokens, s.hidden, s.experts, s.chosen, s.epsilon, self.type)
        self._call("experts_prefill", self.y, self.workspace, self.normed, self.chosen, self.chosen_weights,
                   layer.gate_up, layer.down, self.tokens, s.chosen, s.experts, s.hidden, s.inner, self.type)

    def add_norm(self, norm: torch.Tensor, chosen: int) -> None:
        self._call("add_norm", self.normed, self.h, self.h, self.y, norm, self.tokens, chosen, self.shape.hidden,
                   self.shape.epsilon, self.type)

    def whole(self, layers: list[Layer], caches: list[tuple[torch.Tensor, torch.Tensor]], head: Head, *,
              with_experts: bool = True) -> None:
        self.h.copy_(self.start)
        self.add_norm(layers[0].input_norm, 0)
        for layer, cache, norm in zip(layers, caches, [*(x.input_norm for x in layers[1:]), head.norm], strict=True):
            self.dense(layer, *cache)
            if with_experts:
                self.experts(layer)
            self.add_norm(norm, self.shape.chosen if with_experts else 0)
        self._call("product", self.logits, self.normed[-1], None, head.weights, 1, self.shape.vocabulary,
                   self.shape.hidden, self.type, 1)

    def _product(self, out: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None,
                 weights: torch.Tensor) -> None:
        self._call("prefill_product", out, x, residual, weights, self.tokens, *weights.shape, self.type, 0,
                   self.workspace, WORKSPACE)

    def _call(self, name: str, *arguments: torch.Tensor | float | None) -> None:
        addresses = (x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments)
        self.kernels.call(name, *addresses, torch.cuda.current_stream().cuda_stream)
        self.after_each()


def time_prompt(kernels: DecoderKernels, shape: Shape, layers: list[Layer], head: Head, tokens: int,
                dtype: torch.dtype) -> dict:
    prefill = Prefill(kernels, shape, tokens, 0, dtype)
    caches = [random_cache(shape, 1, tokens + 16, dtype) for _ in layers]
    prefill.after_each = torch.cuda.synchronize
    prefill.whole(layers, caches, head)
    expected = prefill.logits.clone()
    prefill.after_each = lambda: None
    graph = graph_of(lambda: prefill.whole(layers, caches, head))
    total = milliseconds(graph, 10)
    same = torch.equal(prefill.logits, expected) and bool(expected.isfinite().all())
    without = milliseconds(graph_of(lambda: prefill.whole(layers, caches, head, with_experts=False)), 10)
    return {"tokens": tokens, "ms": total, "ms_without_experts": without, "as_one_by_one": same,
            "goal_ms": GOALS_MS.get(tokens)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokens", type=int, nargs="+", default=[128, 512, 1024, 2048], help="prompts to time")
    options.add_argument("--layers", type=int, default=48)
    args = options.parse_args()
    torch.manual_seed(0)
    dtype = torch.bfloat16
    shape, kernels = Shape(layers=args.layers), DecoderKernels(args.kernels)
    record = Record(args.output, "prefill", layers=args.layers)
    with watched("random weights"):
        layers, head = [random_layer(shape, dtype) for _ in range(shape.layers)], random_head(shape, dtype)
    rows = []
    for tokens in args.tokens:
        with watched(f"prompt of {tokens} tokens", 60):
            rows.append(time_prompt(kernels, shape, layers, head, tokens, dtype))
            record.add("timed", rows)
    for row in rows:
        print(f"{row['tokens']:5} tokens: {row['ms']:.2f} ms, without experts {row['ms_without_experts']:.2f}"
              + (f", goal {row['goal_ms']}" if row["goal_ms"] else "")
              + ("" if row["as_one_by_one"] else "; WRONG: not what the kernels give one by one"), flush=True)
    wrong = sum(not row["as_one_by_one"] for row in rows)
    print(json.dumps({"wrong": wrong}))
    if wrong:
        raise SystemExit("some outputs are wrong")


if __name__ == "__main__":
    main()
