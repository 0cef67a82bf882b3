"""The experts of a chunk of many tokens: checked beside torch in double precision, then timed beside the floors.

    python -m bench.decoder_cuda.experts_prefill --kernels libdecoder_kernels.so --output out.json

Each check has its own time limit, after which the program ends and says which one hung. A wrong result does not keep
the others from being checked; an error of CUDA does, as it leaves the process without a usable device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.cuda_timing import PEAK, graph_of, milliseconds
from bench.decoder_cuda.experts_reference import reference, routings
from bench.decoder_cuda.model import Layer, Shape, element_type, random_layer
from bench.decoder_cuda.record import Record, parser
from bench.decoder_cuda.run import bandwidth
from bench.decoder_cuda.watch import watched
from plugins.decoder_kernels.kernel_library import DecoderKernels

LARGEST_ERROR = {torch.bfloat16: 6e-3, torch.float16: 8e-4}  # of y; two roundings, of activations and of outputs
CHECKED_TOKENS = (1, 7, 33, 64, 300, 1024, 2048)
ROUTED_TOKENS = (257, 300, 2048)  # more than the router of a decode step takes
TIMED_TOKENS = (128, 256, 512, 1024, 2048, 4096)
STEP_TOKENS = 256  # the most that the experts' kernel of a decode step takes at once
LAYERS = 4  # with weights of their own, more than the second-level cache holds


@dataclass(frozen=True)
class Chunk:
    """What the experts of one chunk read and write."""

    x: torch.Tensor
    chosen: torch.Tensor
    weights: torch.Tensor
    y: torch.Tensor
    workspace: torch.Tensor

    @classmethod
    def random(cls, kernels: DecoderKernels, shape: Shape, chosen: torch.Tensor, dtype: torch.dtype) -> Chunk:
        tokens, k = chosen.shape
        x = torch.randn(tokens, shape.hidden, device="cuda", dtype=dtype)
        weights = torch.randn(tokens, k, device="cuda").softmax(-1)
        size = kernels.workspace("experts_prefill", tokens, k)
        workspace = torch.full((size,), 0xFF, device="cuda", dtype=torch.uint8)
        y = torch.full((tokens, k, shape.hidden), torch.nan, device="cuda", dtype=dtype)
        return cls(x, chosen.to("cuda", torch.int32), weights, y, workspace)

    def run(self, kernels: DecoderKernels, shape: Shape, layer: Layer) -> None:
        tokens, k = self.chosen.shape
        kernels.call("experts_prefill", *(t.data_ptr() for t in (
            self.y, self.workspace, self.x, self.chosen, self.weights, layer.gate_up, layer.down)), tokens, k,
            shape.experts, shape.hidden, shape.inner, element_type(self.x.dtype),
            torch.cuda.current_stream().cuda_stream)


def check(kernels: DecoderKernels, shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """Relative errors of tokens' sums, by norms; NaN where something was not written or differs from run to run."""
    layer, errors = random_layer(shape, dtype), {}
    for tokens in CHECKED_TOKENS:
        for routing, chosen in routings(tokens, shape.chosen, shape.experts).items():
            name = f"{str(dtype).removeprefix('torch.')}, {tokens} tokens, {routing}"
            with watched(name):
                chunk = Chunk.random(kernels, shape, chosen, dtype)
                chunk.run(kernels, shape, layer)
                expected = reference(chunk.x, chunk.chosen, chunk.weights, layer)
                found = chunk.y.double().sum(1)
                error = float((found - expected).norm() / expected.norm())
                worst = float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
                first = chunk.y.clone()
                chunk.workspace.fill_(0x7F)
                chunk.run(kernels, shape, layer)
                errors[name] = error if torch.equal(first, chunk.y) else float("nan")
                print(f"  error {errors[name]:.2e}, of the worst token {worst:.2e}", flush=True)
    return errors


def check_router(kernels: DecoderKernels, shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """Relative errors of the normed tokens, the chosen experts' logits and their weights; NaN for repeated experts."""
    layer, errors = random_layer(shape, dtype), {}
    for tokens in ROUTED_TOKENS:
        name = f"router, {str(dtype).removeprefix('torch.')}, {tokens} tokens"
        with watched(name):
            x = torch.randn(tokens, shape.hidden, device="cuda", dtype=dtype)
            normed = torch.full_like(x, torch.nan)
            chosen = torch.full((tokens, shape.chosen), -1, device="cuda", dtype=torch.int32)
            weights, counters = torch.empty(chosen.shape, device="cuda"), torch.full_like(chosen[:32], 7)
            kernels.call("router", *(t.data_ptr() for t in (normed, chosen, weights, counters)), counters.numel(),
                         *(t.data_ptr() for t in (x, layer.expert_norm, layer.router)), tokens, shape.hidden,
                         shape.experts, shape.chosen, shape.epsilon, element_type(x.dtype),
                         torch.cuda.current_stream().cuda_stream)
            wide = x.double()
            expected = wide * (wide.square().mean(1, keepdim=True) + shape.epsilon).rsqrt() * layer.expert_norm.double()
            logits = normed.double() @ layer.router.double().T
            if int(chosen.min()) < 0 or int(chosen.max()) >= shape.experts:
                errors[name] = float("nan")
                continue
            of_chosen = logits.gather(1, chosen.long())
            pairs = ((normed.double(), expected), (of_chosen, logits.topk(shape.chosen).values),
                     (weights.double(), of_chosen.softmax(1)))
            distinct = all(len(set(row)) == shape.chosen for row in chosen.tolist()) and not counters.any()
            worst = max(float((got - right).norm() / right.norm()) for got, right in pairs)
            errors[name] = worst if distinct else float("nan")
    return errors


def time_tokens(kernels: DecoderKernels, shape: Shape, layers: list[Layer], tokens: int, read_bandwidth: float) -> dict:
    """Microseconds a layer of the chunk's kernels, of their peers, and the floors."""
    dtype, chosen = layers[0].gate_up.dtype, routings(tokens, shape.chosen, shape.experts)["uniform"]
    chunk = Chunk.random(kernels, shape, chosen, dtype)

    def ours() -> None:
        for layer in layers:
            chunk.run(kernels, shape, layer)

    microseconds = {"chunk": _microseconds(ours, layers)}
    microseconds["router"] = _microseconds(_router(kernels, shape, layers, chunk), layers)
    if tokens <= STEP_TOKENS:
        both = _microseconds(_router(kernels, shape, layers, chunk, then_experts=True), layers)
        microseconds["kernel of a step"] = both - microseconds["router"]
    try:
        microseconds["torch grouped_mm, products alone"] = _microseconds(_grouped_products(chunk, layers), layers)
    except (AttributeError, RuntimeError) as error:
        print(f"  torch._grouped_mm: {error}")
    used = chunk.chosen.unique().numel()
    weight_bytes = (layers[0].gate_up.nbytes + layers[0].down.nbytes) * used / shape.experts
    operations = 2 * tokens * shape.chosen * 3 * shape.inner * shape.hidden
    floors = {"weights": weight_bytes / read_bandwidth * 1e6, "operations": operations / PEAK * 1e6}
    return {"tokens": tokens, "microseconds": microseconds, "floors_us": floors, "experts_used": used,
            "tera_operations_per_second": operations / microseconds["chunk"] / 1e6,
            "weight_tb_per_second": weight_bytes / microseconds["chunk"] / 1e6,
            "ms_of_48_layers": microseconds["chunk"] * 48 / 1e3}


def _router(kernels: DecoderKernels, shape: Shape, layers: list[Layer], chunk: Chunk, *, then_experts: bool = False):
    tokens, k = chunk.chosen.shape
    normed, chosen, weights = torch.empty_like(chunk.x), torch.empty_like(chunk.chosen), torch.empty_like(chunk.weights)
    counters = torch.empty(256, device="cuda", dtype=torch.int32)
    activations = torch.empty(tokens * k, shape.inner, device="cuda", dtype=chunk.x.dtype)
    y = torch.empty(tokens * k, shape.hidden, device="cuda", dtype=chunk.x.dtype)

    def run() -> None:
        stream = torch.cuda.current_stream().cuda_stream
        for layer in layers:
            kernels.call("router", normed.data_ptr(), chosen.data_ptr(), weights.data_ptr(), counters.data_ptr(), 256,
                         chunk.x.data_ptr(), layer.expert_norm.data_ptr(), layer.router.data_ptr(), tokens,
                         shape.hidden, shape.experts, k, shape.epsilon, element_type(chunk.x.dtype), stream)
            if then_experts:
                kernels.call("experts", y.data_ptr(), activations.data_ptr(), counters.data_ptr(), chunk.x.data_ptr(),
                             chunk.chosen.data_ptr(), chunk.weights.data_ptr(), layer.gate_up.data_ptr(),
                             layer.down.data_ptr(), tokens, k, shape.experts, shape.hidden, shape.inner,
                             element_type(chunk.x.dtype), stream)

    return run


def _grouped_products(chunk: Chunk, layers: list[Layer]):
    """Both products of rows that are grouped already: no sorting, no SwiGLU, no sums."""
    experts = chunk.chosen.flatten()
    ends = torch.bincount(experts, minlength=len(layers[0].down)).cumsum(0).to(torch.int32)
    rows = chunk.x[experts.argsort(stable=True) // chunk.chosen.shape[1]]
    activations = torch.randn(len(rows), layers[0].down.shape[2], device="cuda", dtype=chunk.x.dtype)

    def run() -> None:
        for layer in layers:
            torch._grouped_mm(rows, layer.gate_up.mT, offs=ends)
            torch._grouped_mm(activations, layer.down.mT, offs=ends)

    return run


def _microseconds(work, layers: list[Layer]) -> float:
    return milliseconds(graph_of(work), 15) * 1e3 / len(layers)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokens", type=int, nargs="*", default=list(TIMED_TOKENS), help="chunks to time")
    args = options.parse_args()
    torch.manual_seed(0)
    shape, kernels, record = Shape(layers=LAYERS), DecoderKernels(args.kernels), Record(args.output, "experts_prefill")
    bad = []
    for dtype in (torch.bfloat16, torch.float16):
        errors = check_router(kernels, shape, dtype) | check(kernels, shape, dtype)
        record.add(f"errors_{dtype}".replace("torch.", ""), errors)
        bad += [f"{name}: {error:.2e}" for name, error in errors.items() if not error < LARGEST_ERROR[dtype]]
    print("\n".join(["WRONG:", *bad]) if bad else "all outputs are right", flush=True)
    with watched("bandwidth"):
        read = max(bandwidth().values())
    record.add("read_bandwidth_bytes_per_second", read)
    layers = [random_layer(shape, torch.bfloat16) for _ in range(LAYERS)]
    rows = []
    for tokens in args.tokens:
        with watched(f"timing {tokens} tokens"):
            rows.append(time_tokens(kernels, shape, layers, tokens, read))
            record.add("timed", rows)
    for row in rows:
        times = ", ".join(f"{name} {value:.0f}" for name, value in row["microseconds"].items())
        floors = ", ".join(f"{name} {value:.0f}" for name, value in row["floors_us"].items())
        print(f"{row['tokens']:5} tokens: us a layer: {times}; floors: {floors}; 48 layers "
              f"{row['ms_of_48_layers']:.1f} ms")
    if bad:
        raise SystemExit("some outputs are wrong")


if __name__ == "__main__":
    main()
