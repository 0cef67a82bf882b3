"""Decode steps of the decoder's CUDA kernels: checked, then timed at the real shapes with all 48 layers.

    python -m bench.decoder_cuda.run --kernels libdecoder_kernels.so --output out.json
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict

import torch

from bench.cuda_timing import graph_of, milliseconds
from bench.decoder_cuda.check import check_layer
from bench.decoder_cuda.model import Buffers, Head, Layer, Shape, layer_bytes, random_cache, random_head, random_layer
from bench.decoder_cuda.record import Record, parser
from bench.decoder_cuda.step import Step
from plugins.decoder_kernels.kernel_library import DecoderKernels

ONCE = ("head", "most likely tokens")  # parts that a step has once
LARGEST_ERROR = 5e-3  # of bfloat16 outputs; the rounding of one is 1.7e-3


def bandwidth() -> dict[str, float]:
    """Bytes a second: of a copy, read and written, and of reading alone (a sum)."""
    source = torch.randint(-(2**31), 2**31 - 1, (1 << 30,), device="cuda", dtype=torch.int32)
    target = torch.empty_like(source)
    copy = graph_of(lambda: target.copy_(source))
    floats = source.view(torch.float32).nan_to_num_(0, 0, 0)
    read = graph_of(lambda: floats.amax())
    return {"copy": 2 * source.nbytes / milliseconds(copy, 5) * 1e3,
            "read": source.nbytes / milliseconds(read, 5) * 1e3}


def check(kernels: DecoderKernels, shape: Shape, layer: Layer, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    cases = {"1 sequence": [1024], "no past": [0], "3, odd lengths": [1, 17, 999],
             "8": [1024, 15, 16, 1, 0, 31, 700, 64], "16": list(range(100, 116)),
             "32": list(range(0, 320, 10)), "64": list(range(64)), "128": list(range(128)), "200": list(range(200))}
    results = {name: check_layer(kernels, shape, layer, lengths, 1100, dtype) for name, lengths in cases.items()}
    for splits in (1, 2, 4):
        results[f"8, {splits} splits"] = check_layer(kernels, shape, layer, cases["8"], 1100, dtype, splits)
    return results


def time_batch(kernels: DecoderKernels, shape: Shape, layers: list[Layer], head: Head, batch: int, past: int,
               dtype: torch.dtype, read_bandwidth: float, step_of: type[Step] = Step) -> dict[str, object]:
    """Milliseconds of a whole step and, each launched alone once a layer, of its kernels."""
    buffers = Buffers.random(shape, batch, past, dtype)
    start = buffers.h.clone()
    step = step_of(kernels, shape, buffers)
    caches = [random_cache(shape, batch, past + 16, dtype) for _ in layers]
    used = []

    norms = [*(layer.input_norm for layer in layers[1:]), head.norm]

    def whole(watch: Callable[[], None] = lambda: None) -> None:
        buffers.h.copy_(start)
        step.begin(layers[0].input_norm)
        for layer, cache, norm in zip(layers, caches, norms, strict=True):
            step.layer(layer, *cache, norm)
            watch()
        step.head(head)
        step.top()

    whole(lambda: used.append(buffers.chosen.unique().numel()))
    finite = bool(buffers.logits.isfinite().all())
    graph = graph_of(whole)
    repeats = 30 if batch < 32 else 12
    total = milliseconds(graph, repeats)
    first = buffers.logits.clone()
    graph.replay()
    repeatable = torch.equal(first, buffers.logits)

    parts: dict[str, Callable[[int], None]] = {
        "qkv": lambda i: step.qkv(layers[i]), "attention": lambda i: step.attention(layers[i], *caches[i]),
        "output": lambda i: step.output(layers[i]), "router": lambda i: step.router(layers[i]),
        "add and norm": lambda i: step.add_norm(norms[i])}
    alone = {}
    for name, part in parts.items():
        alone[name] = milliseconds(graph_of(lambda part=part: [part(i) for i in range(len(layers))]), 7)

    def router_and_experts() -> None:
        for layer in layers:
            step.router(layer)
            step.experts(layer)

    for splits in (1, 2, 4, 8):
        alone[f"attention, {splits} splits"] = milliseconds(graph_of(
            lambda splits=splits: [step.attention(layers[i], *caches[i], splits) for i in range(len(layers))]), 7)
    alone["experts"] = milliseconds(graph_of(router_and_experts), 7) - alone["router"]
    for name, part in (("head", lambda: step.head(head)), ("most likely tokens", step.top)):
        alone[name] = milliseconds(graph_of(lambda part=part: [part() for _ in range(4)]), 7) / 4
    mean_used = statistics.mean(used)
    cache_bytes = 2 * batch * past * shape.kv_heads * shape.head_size * dtype.itemsize
    least = len(layers) * (layer_bytes(layers[0], mean_used) + cache_bytes) + head.weights.nbytes
    return {"batch": batch, "past": past, "step_ms": total, "floor_ms": least / read_bandwidth * 1e3, "bytes": least,
            "tokens_per_second": batch / total * 1e3, "experts_used": mean_used, "finite": finite,
            "repeatable": repeatable, "alone_ms": alone}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    options.add_argument("--past", type=int, default=1024, help="tokens in the cache before the step")
    options.add_argument("--layers", type=int, default=48)
    options.add_argument("--dtype", default="bfloat16", choices=("float16", "bfloat16"))
    args = options.parse_args()
    torch.manual_seed(0)
    shape, dtype = Shape(layers=args.layers), getattr(torch, args.dtype)
    kernels, record = DecoderKernels(args.kernels), Record(args.output, "run", dtype=args.dtype, shape=asdict(shape))
    layers = [random_layer(shape, dtype)]
    checked = check(kernels, shape, layers[0], dtype)
    record.add("errors", checked)
    bad = {(case, name): error for case, errors in checked.items() for name, error in errors.items()
           if not error < LARGEST_ERROR}
    for (case, name), error in bad.items():
        print(f"WRONG: {case}: {name}: {error}")
    print("largest error", max(error for errors in checked.values() for error in errors.values()), flush=True)
    measured = bandwidth()
    record.add("bandwidth_bytes_per_second", measured)
    print({name: f"{value / 1e12:.3f} TB/s" for name, value in measured.items()}, flush=True)
    layers += [random_layer(shape, dtype) for _ in range(shape.layers - 1)]
    head = random_head(shape, dtype)
    for batch in args.batches:
        row = time_batch(kernels, shape, layers, head, batch, args.past, dtype, max(measured.values()))
        record.add(f"batch_{batch}", row)
        alone = {name: round(value * 1e3 / (1 if name in ONCE else len(layers)), 2)
                 for name, value in row["alone_ms"].items()}
        print(f"batch {batch}: {row['step_ms']:.3f} ms, floor {row['floor_ms']:.3f}, experts "
              f"{row['experts_used']:.1f}, finite {row['finite']}, "
              f"repeatable {row['repeatable']}; us a layer alone: {alone}", flush=True)
    if bad:
        raise SystemExit("some outputs are wrong")


if __name__ == "__main__":
    main()
