"""Speed of the vision encoder at the shapes of Qwen3-VL-30B-A3B: ONNX Runtime CUDA beside `transformers` and the floor.

    python -m bench.vision_encoder.prepare FOLDER --vision-kernels build/vision_kernels/libvision_kernels.so
    python -m bench.vision_encoder.run FOLDER --output bench/results/vision_encoder_h200.json

Needs a CUDA GPU, torch, transformers and onnxruntime-gpu. The weights are the same on every side; every side's visual
rows are compared, level by level, with those of `transformers` in float32. Each time is the median of the wall times of
single calls one after the other, inputs and outputs on the GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import torch
import transformers

from bench.environment import describe_machine
from bench.synthetic_checkpoint import config_30b_a3b
from bench.vision_encoder.calls import CALLS, LARGEST, Call, least_bytes, operations
from bench.vision_encoder.prepare import MEASURED
from bench.vision_encoder.sides import BoundEngine, Inputs, Reference
from engines.onnxruntime.cuda_graph import fuse_for_cuda
from engines.onnxruntime.cuda_session import PROVIDER, load_cuda_engine
from engines.onnxruntime.session import session_options
from engines.vision_encoder import vision_encoder
from qwen3vl.config import ModelConfig

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
WARMUP, REPEATS = 3, 10


def median_ms(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall time of a call that has ended on the GPU."""
    for _ in range(WARMUP):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of an 8192 x 8192 x 8192 product of random values."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * 8192**3 / (median_ms(lambda: a @ b, 20) / 1e3)


def copy_rate() -> float:
    """Bytes a second, read plus written, of a copy of 2 GB."""
    source = torch.randint(256, (2_000_000_000,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * len(source) / (median_ms(lambda: target.copy_(source)) / 1e3)


def kernels(run: Callable[[], object], calls: int = 5, limit: int = 16) -> list[dict]:
    """The kernels that take most of the time of one call, of several calls one after the other."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.device_time_total)
    return [{"kernel": event.key[:120], "count": event.count // calls,
             "ms": round(event.device_time_total / 1e3 / calls, 3)} for event in events[:limit]]


class Benchmark:
    def __init__(self, folder: Path, output: Path, seconds: float):
        self.folder, self.output, self.ends = folder, output, time.monotonic() + seconds
        self.checkpoint, self.config = folder / "checkpoint", config_30b_a3b().vision_config
        self.model = ModelConfig.from_checkpoint(self.checkpoint)
        vision = self.model.vision
        self.inputs = {call: Inputs(vision, call) for call in CALLS}
        reference = Reference(self.checkpoint, self.config, torch.float32)
        self.expected = {call: reference.rows(inputs) for call, inputs in self.inputs.items()}
        rates = {name: matrix_rate(dtype) for name, dtype in TORCH.items()}
        copied = copy_rate()
        self.report = {
            "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "transformers": transformers.__version__, "onnxruntime": onnxruntime.__version__, **describe_machine(),
            "command": f"python -m bench.vision_encoder.run {' '.join(sys.argv[1:])}",
            "operations": {call.name: operations(vision, call) for call in CALLS},
            "matrix_operations_per_second": rates, "copy_bytes_per_second": copied,
            "floor_ms": {precision: {call.name: round(1e3 * max(operations(vision, call)["all"] / rates[precision],
                                                                least_bytes(vision, call, 2) / copied), 3)
                                     for call in CALLS} for precision in TORCH},
            "results": []}

    def add(self, **result) -> None:
        self.report["results"].append(result)
        self.output.write_text(json.dumps(self.report, indent=1) + "\n")
        print(json.dumps({name: value for name, value in result.items() if name != "kernels"}), flush=True)

    def difference(self, rows: torch.Tensor, call: Call) -> dict[str, list[float]]:
        """Of each level: root mean square and largest value of the difference, as shares of the reference's."""
        shape = (-1, self.model.rows_per_token, rows.shape[-1])
        actual, expected = rows.float().view(shape), self.expected[call].view(shape)
        off = actual - expected
        rms = (off.square().mean((0, 2)) / expected.square().mean((0, 2))).sqrt()
        largest = off.abs().amax((0, 2)) / expected.abs().amax((0, 2))
        return {name: [float(f"{x:.3g}") for x in values.tolist()] for name, values in
                (("rms", rms), ("largest", largest))}

    def measure(self, name: str, precision: str, prepare: Callable[[Call], Callable[[], torch.Tensor]],
                calls: Iterable[Call] = CALLS, *, profiled: bool = False) -> None:
        """`prepare` gives what runs a call and returns its rows."""
        times, differences, first = {}, {}, {}
        for call in calls:
            if time.monotonic() > self.ends:
                break
            run = prepare(call)
            started = time.perf_counter()
            rows = run()
            torch.cuda.synchronize()
            first[call.name] = round(1e3 * (time.perf_counter() - started), 1)
            differences[call.name] = self.difference(rows, call)
            times[call.name] = round(median_ms(run), 3)
        profile = {"kernels": kernels(prepare(LARGEST))} if profiled and times else {}
        self.add(side=name, precision=precision, ms=times, first_call_ms=first, difference=differences, **profile)

    def engine(self, name: str, precision: str, session, **options) -> None:
        engine = BoundEngine(session)

        def prepare(call: Call) -> Callable[[], torch.Tensor]:
            rows = torch.full_like(self.expected[call], float("nan"))
            engine.bind(self.inputs[call], rows)
            return lambda: (engine.run(), rows)[1]

        self.measure(name, precision, prepare, **options)

    def onnxruntime(self, precision: str) -> None:
        stream = {"user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}
        graph = self.folder / precision / "onnx/vision_encoder.onnx"
        own = graph.with_name("own_operators.onnx")
        model = ir.load(graph)
        fuse_for_cuda(model, kernels=False)
        ir.save(model, own)
        folder = self.folder / precision / "engines"
        self.engine("with the vision kernels", precision, load_cuda_engine(folder / "vision_encoder", stream),
                    profiled=True)
        for name, path in (("own operators, fused", own), ("graph as exported", graph)):
            session = onnxruntime.InferenceSession(path, session_options(1), providers=[(PROVIDER, stream)])
            self.engine(name, precision, session, profiled=True)
        encoder = vision_encoder(folder)
        frames = self.inputs[LARGEST].tensors["patches"].cpu().numpy()
        self.measure("with the vision kernels, arrays in and out", precision,
                     lambda call: lambda: torch.from_numpy(encoder.encode_frames(call.grid, frames)).cuda(), [LARGEST])

    def transformers(self, precision: str, *, compiled: bool) -> None:
        reference = Reference(self.checkpoint, self.config, TORCH[precision])
        if compiled:
            reference.compile_blocks()
        self.measure(f"transformers, {'compiled' if compiled else 'eager'}", precision,
                     lambda call: lambda: reference.rows(self.inputs[call]))

    def table(self) -> str:
        """One line a side, milliseconds."""
        lines = [f"{'':52}" + "".join(f"{call.name:>14}" for call in CALLS)]
        rows = [("floor", precision, floors) for precision, floors in self.report["floor_ms"].items()]
        rows += [(result["side"], result["precision"], result["ms"]) for result in self.report["results"]]
        lines += [f"{f'{side}, {precision}':52}" + "".join(f"{ms.get(call.name, float('nan')):14.2f}" for call in CALLS)
                  for side, precision, ms in rows]
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what bench.vision_encoder.prepare made")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=600.0, help="after which no further call is measured")
    args = parser.parse_args()
    benchmark = Benchmark(args.folder, args.output, args.seconds)
    for precision in MEASURED:
        benchmark.onnxruntime(precision)
        benchmark.transformers(precision, compiled=False)
    for precision in MEASURED:
        benchmark.transformers(precision, compiled=True)
    print(benchmark.table())


if __name__ == "__main__":
    main()
