"""Dense products, sums and norms of many tokens: checked beside torch in double precision, timed beside the floors.

    python -m bench.decoder_cuda.products_prefill --kernels libdecoder_kernels.so --output out.json

Each check has its own time limit, after which the program ends and says which one hung.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.cuda_timing import PEAK, graph_of, milliseconds
from bench.decoder_cuda.model import Shape, element_type, random_norm
from bench.decoder_cuda.record import Record, parser
from bench.decoder_cuda.run import bandwidth
from bench.decoder_cuda.watch import watched
from plugins.decoder_kernels.kernel_library import DecoderKernels

LARGEST_ERROR = {torch.float32: 1e-4, torch.bfloat16: 3e-3, torch.float16: 4e-4}  # of results of that type
TOKENS = (33, 64, 129, 512, 1024, 2048)
TIMED_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048)
STEP_TOKENS = 128  # up to so many, the kernel of a step is timed too
WORKSPACE = 32 << 20
MATRICES = 4  # with weights of their own, in one graph


@dataclass(frozen=True)
class Product:
    """One of a layer's products, or the head's."""

    name: str
    rows: int
    inner: int
    adds: bool = False
    wide: bool = False


def products(shape: Shape) -> list[Product]:
    attended = shape.heads * shape.head_size
    return [Product("queries, keys, values", shape.qkv, shape.hidden),
            Product("output and residual", shape.hidden, attended, adds=True),
            Product("logits", shape.vocabulary, shape.hidden, wide=True)]


class Caller:
    """Calls the library with a workspace of its own."""

    def __init__(self, kernels: DecoderKernels):
        self.kernels, self.workspace = kernels, torch.empty(WORKSPACE, device="cuda", dtype=torch.uint8)

    def prefill_product(self, out: torch.Tensor, x: torch.Tensor, weights: torch.Tensor,
                        residual: torch.Tensor | None) -> None:
        self._call("prefill_product", out, x, residual, weights, len(x), *weights.shape, element_type(x.dtype),
                   int(out.dtype == torch.float32), self.workspace, WORKSPACE)

    def product(self, out: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, residual: torch.Tensor | None) -> None:
        self._call("product", out, x, residual, weights, len(x), *weights.shape, element_type(x.dtype),
                   int(out.dtype == torch.float32))

    def add_norm(self, normed: torch.Tensor, total: torch.Tensor, h: torch.Tensor, y: torch.Tensor,
                 norm: torch.Tensor) -> None:
        self._call("add_norm", normed, total, h, y, norm, len(h), y.shape[1], h.shape[1], Shape.epsilon,
                   element_type(h.dtype))

    def _call(self, name: str, *arguments: torch.Tensor | float | None) -> None:
        addresses = (x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments)
        self.kernels.call(name, *addresses, torch.cuda.current_stream().cuda_stream)


def check_product(caller: Caller, product: Product, tokens: int, dtype: torch.dtype) -> dict[str, float]:
    """Relative errors; NaN where something was not written, or differs in a CUDA graph."""
    x, weights = _matrix(tokens, product.inner, dtype), _matrix(product.rows, product.inner, dtype)
    residual = torch.randn(tokens, product.rows, device="cuda", dtype=dtype) if product.adds else None
    out = torch.full((tokens, product.rows), torch.nan, device="cuda", dtype=torch.float32 if product.wide else dtype)
    caller.prefill_product(out, x, weights, residual)
    errors = {"": _product_error(out, x, weights, residual)}
    first = out.clone()
    graph = graph_of(lambda: caller.prefill_product(out.fill_(torch.nan), x, weights, residual))
    graph.replay()
    errors[", in a graph"] = float((out.double() - first.double()).norm())
    if residual is not None:
        in_place = residual.clone()
        caller.prefill_product(in_place, x, weights, in_place)
        # Not the same bits: cuBLAS adds in place what it has rounded before.
        errors[", in place"] = _product_error(in_place, x, weights, residual)
    return errors


def _product_error(out: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, residual: torch.Tensor | None) -> float:
    difference = square = 0.0
    for columns in torch.arange(len(weights)).split(8192):  # the head's weights in double precision are large
        part = slice(int(columns[0]), int(columns[-1]) + 1)
        expected = x.double() @ weights[part].double().T + (0 if residual is None else residual[:, part].double())
        difference += float((out[:, part].double() - expected).square().sum())
        square += float(expected.square().sum())
    return (difference / square) ** 0.5


def check_add_norm(caller: Caller, shape: Shape, tokens: int, summands: int, dtype: torch.dtype) -> dict[str, float]:
    h, norm = torch.randn(tokens, shape.hidden, device="cuda", dtype=dtype), random_norm(shape.hidden, dtype)
    y = torch.randn(tokens, summands, shape.hidden, device="cuda", dtype=dtype)
    normed, total = torch.full_like(h, torch.nan), torch.full_like(h, torch.nan)
    caller.add_norm(normed, total, h, y, norm)
    expected = h.double() + y.double().sum(1)
    wide = total.double()
    normed_expected = wide * (wide.square().mean(1, keepdim=True) + shape.epsilon).rsqrt() * norm.double()
    return {"": float((wide - expected).norm() / expected.norm()),
            ", normed": float((normed.double() - normed_expected).norm() / normed_expected.norm())}


def check(caller: Caller, shape: Shape, dtype: torch.dtype) -> dict[str, tuple[float, float]]:
    """Relative errors, each with the largest that is right."""
    errors, type_name = {}, str(dtype).removeprefix("torch.")
    for product in products(shape):
        for tokens in TOKENS[:4] if product.wide else TOKENS:
            name = f"{type_name}, {product.name}, {tokens} tokens"
            with watched(name):
                most = LARGEST_ERROR[torch.float32 if product.wide else dtype]
                for what, error in check_product(caller, product, tokens, dtype).items():
                    errors[name + what] = (error, most)
    for tokens, summands in ((1, 8), (33, 8), (1024, 8), (2049, 8), (33, 1), (33, 17)):
        name = f"{type_name}, sum of {summands} and norm, {tokens} tokens"
        with watched(name):
            for what, error in check_add_norm(caller, shape, tokens, summands, dtype).items():
                errors[name + what] = (error, LARGEST_ERROR[dtype])
    return errors


def time_product(caller: Caller, product: Product, tokens: int, read_bandwidth: float) -> dict:
    """Microseconds of one product by cuBLASLt as it is called here, by torch, and by the kernel of a step."""
    dtype, count = torch.bfloat16, 1 if product.wide else MATRICES
    x = _matrix(tokens, product.inner, dtype)
    matrices = [_matrix(product.rows, product.inner, dtype) for _ in range(count)]
    residual = torch.randn(tokens, product.rows, device="cuda", dtype=dtype) if product.adds else None
    out = torch.empty(tokens, product.rows, device="cuda", dtype=torch.float32 if product.wide else dtype)

    def by_torch(weights: torch.Tensor) -> None:
        if residual is not None:
            torch.addmm(residual, x, weights.T, out=out)
        elif product.wide:
            torch.mm(x, weights.T, out_dtype=torch.float32, out=out)
        else:
            torch.mm(x, weights.T, out=out)

    def of_each(work: Callable[[torch.Tensor], None]) -> float:
        return milliseconds(graph_of(lambda: [work(weights) for weights in matrices]), 15) * 1e3 / count

    microseconds = {"cuBLASLt": of_each(lambda weights: caller.prefill_product(out, x, weights, residual)),
                    "torch": of_each(by_torch)}
    if tokens <= STEP_TOKENS:
        microseconds["kernel of a step"] = of_each(lambda weights: caller.product(out, x, weights, residual))
    operations = 2 * tokens * product.rows * product.inner
    moved = matrices[0].nbytes + x.nbytes + out.nbytes + (0 if residual is None else residual.nbytes)
    return {"what": product.name, "tokens": tokens, "microseconds": microseconds,
            "floor_us": max(operations / PEAK, moved / read_bandwidth) * 1e6,
            "tera_operations_per_second": operations / microseconds["cuBLASLt"] / 1e6}


def time_add_norm(caller: Caller, shape: Shape, tokens: int, summands: int, read_bandwidth: float) -> dict:
    dtype, norm = torch.bfloat16, random_norm(shape.hidden, torch.bfloat16)
    buffers = [(torch.randn(tokens, shape.hidden, device="cuda", dtype=dtype),
                torch.randn(tokens, summands, shape.hidden, device="cuda", dtype=dtype)) for _ in range(MATRICES)]
    normed = torch.empty_like(buffers[0][0])

    def run() -> None:
        for h, y in buffers:
            caller.add_norm(normed, h, h, y, norm)

    moved = buffers[0][1].nbytes + 3 * normed.nbytes
    return {"what": f"sum of {summands} and norm", "tokens": tokens, "floor_us": moved / read_bandwidth * 1e6,
            "microseconds": {"add_norm": milliseconds(graph_of(run), 15) * 1e3 / MATRICES}}


def _matrix(rows: int, inner: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, inner, device="cuda", dtype=dtype).mul_(inner**-0.25)


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.manual_seed(0)
    shape, caller, record = Shape(), Caller(DecoderKernels(args.kernels)), Record(args.output, "products_prefill")
    errors = check(caller, shape, torch.bfloat16) | check(caller, shape, torch.float16)
    record.add("errors", errors)
    bad = [f"{name}: {error:.2e}" for name, (error, most) in errors.items() if not error < most]
    print("\n".join(["WRONG:", *bad]) if bad else "all outputs are right", flush=True)
    with watched("bandwidth"):
        read = max(bandwidth().values())
    rows = []
    for tokens in TIMED_TOKENS:
        with watched(f"timing {tokens} tokens"):
            rows += [time_product(caller, product, tokens, read) for product in products(shape)
                     if not product.wide or tokens <= STEP_TOKENS]
            rows.append(time_add_norm(caller, shape, tokens, shape.chosen, read))
            record.add("timed", rows)
    for row in rows:
        times = ", ".join(f"{name} {value:.1f}" for name, value in row["microseconds"].items())
        print(f"{row['tokens']:5} tokens, {row['what']}: us: {times}; floor {row['floor_us']:.1f}")
    print(json.dumps({"wrong": len(bad)}))
    if bad:
        raise SystemExit("some outputs are wrong")


if __name__ == "__main__":
    main()
