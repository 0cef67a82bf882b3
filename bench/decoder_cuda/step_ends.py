"""The kernels around a step's layers: exact beside torch, then timed.

    python -m bench.decoder_cuda.step_ends --kernels libdecoder_kernels.so --output out.json

`torch.topk` is timed beside the kernel for the most likely tokens, and reading the logits once is its floor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from bench.cuda_timing import graph_of, milliseconds
from bench.decoder_cuda.model import Shape, element_type
from bench.decoder_cuda.record import Record, parser
from bench.decoder_cuda.run import bandwidth
from bench.decoder_cuda.token_draws import equal_draws, random_draws
from bench.decoder_cuda.watch import watched
from engines.onnxruntime.cuda_record import CANDIDATES
from plugins.decoder_kernels import step_ends
from plugins.decoder_kernels.kernel_library import DecoderKernels

BATCHES = (1, 4, 8, 32, 128)
REPEATS = 20  # calls in one graph


class StepEnds:
    """Calls the library, with outputs of its own that are no numbers before."""

    def __init__(self, kernels: DecoderKernels):
        self.kernels = kernels

    def top(self, logits: torch.Tensor, draws: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Results are in the host's memory, pinned, and there when the stream is."""
        rows, vocabulary = logits.shape
        scratch = torch.full((self.kernels.workspace("top_logits", rows, vocabulary, k),), 0xFF, device="cuda",
                             dtype=torch.uint8)
        best = torch.full((rows, k), torch.nan).pin_memory()
        ids = torch.full((rows, k), -1).pin_memory()
        chosen = torch.full((rows,), -1).pin_memory()
        self.call("top_logits", best, ids, chosen, scratch, logits, draws, rows, vocabulary, k)
        return best, ids, chosen

    def inputs(self, ids: torch.Tensor, chosen: torch.Tensor, table: torch.Tensor, positions: torch.Tensor,
               axes: torch.Tensor, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens, count = len(ids), len(axes)
        hidden = torch.full((tokens, table.shape[1]), torch.nan, device="cuda", dtype=table.dtype)
        cosines, sines = (torch.full((tokens, count), torch.nan, device="cuda") for _ in range(2))
        self.call("step_inputs", hidden, cosines, sines, ids, chosen, table, positions, axes, frequencies, tokens,
                  len(chosen), *table.shape, count, element_type(table.dtype))
        return hidden, cosines, sines

    def wanted(self, h: torch.Tensor, y: torch.Tensor, norm: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        normed = torch.full((len(rows), h.shape[1]), torch.nan, device="cuda", dtype=h.dtype)
        self.call("add_norm_rows", normed, h, y, norm, rows, len(rows), *y.shape, Shape.epsilon, element_type(h.dtype))
        return normed

    def all(self, h: torch.Tensor, y: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        normed = torch.full_like(h, torch.nan)
        self.call("add_norm", normed, None, h, y, norm, *y.shape, Shape.epsilon, element_type(h.dtype))
        return normed

    def call(self, name: str, *arguments: torch.Tensor | float | None) -> None:
        addresses = (x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments)
        self.kernels.call(name, *addresses, torch.cuda.current_stream().cuda_stream)


def check_top(ends: StepEnds, rows: int, vocabulary: int, k: int) -> float:
    """Of all different, then of many equal logits.

    Returns 0, or NaN where the most likely are not those of a stable sort, or where numpy chooses another of them.
    """
    for logits in (torch.randn(rows, vocabulary, device="cuda"),
                   torch.randint(-3, 3, (rows, vocabulary), device="cuda").float()):
        expected, order = (x[:, :k].cpu() for x in logits.sort(dim=1, descending=True, stable=True))
        for _ in range(max(1, 200 // rows)):
            draws = random_draws(rows, k)
            best, ids, chosen = ends.top(logits, draws, k)
            torch.cuda.synchronize()
            wanted = [step_ends.chosen_token(*row) for row in zip(expected.numpy(), order.numpy(), draws.cpu().numpy(),
                                                                  strict=True)]
            if not (torch.equal(best, expected) and torch.equal(ids, order) and chosen.tolist() == wanted):
                return float("nan")
    return 0.0


def check_inputs(ends: StepEnds, tokens: int, pinned: bool, dtype: torch.dtype) -> float:
    """The angles' largest error; NaN where a row is not that of the table.

    Some ids, and the last, stand for chosen ones, in the host's pinned memory or the device's; some of these are not
    there, others no rows.
    """
    table = torch.randn(1000, 2048, device="cuda", dtype=dtype)
    chosen = torch.randint(-5, 1200, (128,))
    ids = torch.randint(-150, 1200, (tokens,), device="cuda", dtype=torch.int32)
    ids[-1] = -7
    positions = torch.randint(0, 262144, (3, tokens), device="cuda", dtype=torch.int32)
    axes = torch.arange(64, device="cuda") % 3
    frequencies = 5e6 ** (-torch.arange(64, device="cuda") / 64)
    hidden, *found = ends.inputs(ids, chosen.pin_memory() if pinned else chosen.cuda(), table, positions, axes,
                                 frequencies)
    torch.cuda.synchronize()
    stands = torch.tensor([id if id >= 0 else int(chosen[-1 - id]) if -1 - id < 128 else -1 for id in ids.tolist()],
                          device="cuda")
    known = (stands >= 0) & (stands < len(table))
    rows = torch.where(known[:, None], table[stands.clamp(0, 999)], torch.zeros((), dtype=dtype, device="cuda"))
    angles = (positions[axes].T.float() * frequencies).double()
    errors = [float((x.double() - y).abs().max()) for x, y in zip(found, (angles.cos(), angles.sin()), strict=True)]
    return max(errors) if torch.equal(hidden, rows) else float("nan")


def check_wanted(ends: StepEnds, tokens: int, summands: int, dtype: torch.dtype) -> float:
    """0, or NaN where a wanted token's norm is another than among all, or the first is not the nearest to -1."""
    h, norm = (torch.randn(*size, device="cuda", dtype=dtype) for size in ((tokens, 2048), (2048,)))
    y = torch.randn(tokens, summands, 2048, device="cuda", dtype=dtype)
    rows = torch.randint(tokens, (33,), device="cuda", dtype=torch.int32)
    rows[0] = -1
    found = ends.wanted(h, y, norm, rows)
    return 0.0 if torch.equal(found, ends.all(h, y, norm)[rows.clamp(0).long()]) else float("nan")


def checks(ends: StepEnds) -> dict[str, Callable[[], float]]:
    sizes = [(1, 151936, CANDIDATES), (128, 151936, CANDIDATES), (3, 262144, CANDIDATES), (5, 4100, 7), (2, 64, 64)]
    named: dict[str, Callable[[], float]] = {
        f"{k} most likely of {vocabulary}, {rows} sequences": lambda size=(rows, vocabulary, k): check_top(ends, *size)
        for rows, vocabulary, k in sizes}
    for dtype, tokens, pinned in itertools.product((torch.bfloat16, torch.float16), (1, 999), (False, True)):
        named[f"inputs of {tokens} tokens, {dtype}, chosen ones {'on the host' if pinned else 'on the GPU'}"] = (
            lambda arguments=(tokens, pinned, dtype): check_inputs(ends, *arguments))
    for dtype, tokens, summands in itertools.product((torch.bfloat16, torch.float16), (1, 700), (1, 8)):
        named[f"norms of some of {tokens} tokens, {summands} summands, {dtype}"] = lambda arguments=(
            tokens, summands, dtype): check_wanted(ends, *arguments)
    return named


def timed(ends: StepEnds, shape: Shape, batch: int, read_bandwidth: float) -> dict[str, float]:
    """Microseconds a call."""
    logits = torch.randn(batch, shape.vocabulary, device="cuda")
    table = torch.randn(shape.vocabulary, shape.hidden, device="cuda", dtype=torch.bfloat16)
    ids = torch.randint(shape.vocabulary, (batch,), device="cuda", dtype=torch.int32)
    positions = torch.full((3, batch), 1024, device="cuda", dtype=torch.int32)
    axes, frequencies = torch.arange(64, device="cuda") % 3, torch.rand(64, device="cuda")
    best, found = torch.empty(batch, CANDIDATES, device="cuda"), torch.empty(batch * shape.vocabulary, device="cuda")
    best_ids = torch.empty(batch, CANDIDATES, device="cuda", dtype=torch.int64)
    chosen, places = ids.long().cpu().pin_memory(), -1 - torch.arange(batch, device="cuda", dtype=torch.int32)
    likeliest, sampled = equal_draws(batch, 0), equal_draws(batch, 0.7, 20, 0.8, 0.5)

    def top(draws: torch.Tensor) -> None:
        ends.call("top_logits", best, best_ids, chosen, found, logits, draws, batch, shape.vocabulary, CANDIDATES)

    work = {
        "most likely tokens": lambda: top(likeliest),
        "most likely tokens, one drawn": lambda: top(sampled),
        "torch.topk": lambda: logits.topk(CANDIDATES, dim=1),
        "inputs": lambda: ends.inputs(ids, chosen, table, positions, axes, frequencies),
        "inputs, ids on the host": lambda: ends.inputs(places, chosen, table, positions, axes, frequencies)}
    times = {name: milliseconds(graph_of(lambda call=call: [call() for _ in range(REPEATS)]), 7) / REPEATS * 1e3
             for name, call in work.items()}
    return times | {"floor of the most likely tokens": logits.nbytes / read_bandwidth * 1e6}


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.manual_seed(0)
    ends, record = StepEnds(DecoderKernels(args.kernels)), Record(args.output, "step_ends")
    errors = {}
    for name, check in checks(ends).items():
        with watched(name, 60):
            errors[name] = check()
        print(f"{name}: {errors[name]:.1e}", flush=True)
    record.add("errors", errors)
    if bad := [name for name, error in errors.items() if not error < 1e-6]:
        raise SystemExit(f"wrong: {', '.join(bad)}")
    read = max(bandwidth().values())
    for batch in BATCHES:
        row = timed(ends, Shape(), batch, read)
        record.add(f"batch_{batch}", row)
        print(f"batch {batch}:", {name: round(value, 2) for name, value in row.items()}, flush=True)


if __name__ == "__main__":
    main()
