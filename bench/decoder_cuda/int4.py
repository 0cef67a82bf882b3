"""The decode kernels for weights of 4 bits, and of 8 in the head: checked, then whole steps timed with all 48 layers.

    python -m bench.decoder_cuda.int4 --kernels libdecoder_kernels.so --output out.json

Each part is a process of its own, so that an error of CUDA in one leaves the others: products, experts, steps. Each
check has its own time limit, after which its process ends and says which one hung.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

import torch

from bench.decoder_cuda.int4_check import EXPORTED_BLOCK, LARGEST_ERROR, check_experts, check_products
from bench.decoder_cuda.int4_model import Int4Step, random_int4_layer, random_int8_head
from bench.decoder_cuda.model import Shape
from bench.decoder_cuda.record import Record, parser
from bench.decoder_cuda.run import ONCE, bandwidth, time_batch
from bench.decoder_cuda.watch import watched
from plugins.decoder_kernels.kernel_library import DecoderKernels

PARTS = ("products", "experts", "steps")
GOALS_MS = {1: 1.6, 32: 9.0}


def run_checks(kernels: DecoderKernels, record: Record, part: str) -> None:
    errors = (check_products if part == "products" else check_experts)(kernels, Shape())
    record.add("errors", errors)
    bad = {name: error for name, error in errors.items()
           if not error < LARGEST_ERROR[torch.bfloat16 if "bfloat16" in name else torch.float16]}
    print(f"{part}: {len(errors) - len(bad)} of {len(errors)} right", flush=True)
    for name, error in bad.items():
        print(f"WRONG: {name}: {error:.2e}")
    if bad:
        raise SystemExit(1)


def time_steps(kernels: DecoderKernels, record: Record, batches: list[int], past: int, block: int) -> None:
    shape, dtype = Shape(), torch.bfloat16
    with watched("rate of reading memory", 60):
        measured = bandwidth()
    record.add("bandwidth_bytes_per_second", measured)
    layers = [random_int4_layer(shape, block, dtype) for _ in range(shape.layers)]
    head, rows = random_int8_head(shape, block, dtype), []
    for batch in batches:
        with watched(f"steps of {batch}", 90):
            row = time_batch(kernels, shape, layers, head, batch, past, dtype, max(measured.values()), Int4Step)
        record.add(f"batch_{batch}", row)
        rows.append(row)
        alone = {name: round(value * 1e3 / (1 if name in ONCE else len(layers)), 2)
                 for name, value in row["alone_ms"].items()}
        print(f"  finite {row['finite']}, repeatable {row['repeatable']}; us a layer alone: {alone}", flush=True)
    print(f"read rate {max(measured.values()) / 1e12:.3f} TB/s, blocks of {block}")
    print("batch  step ms  floor ms  goal ms  experts")
    for row in rows:
        times = f"{row['step_ms']:7.3f}  {row['floor_ms']:8.3f}  {GOALS_MS.get(row['batch'], '-'):>7}"
        print(f"{row['batch']:5d}  {times}  {row['experts_used']:7.1f}")


def main() -> None:
    options = parser(__doc__, "out.json: writes out-products.json and so on")
    options.add_argument("--part", choices=PARTS, help="this one only, in this process")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    options.add_argument("--past", type=int, default=1024, help="tokens in the cache before a timed step")
    options.add_argument("--block", type=int, default=EXPORTED_BLOCK, choices=(32, 64, 128), help="of timed steps")
    args = options.parse_args()
    if args.part is None:
        command = [sys.executable, "-m", "bench.decoder_cuda.int4", *sys.argv[1:]]
        failed = [part for part in PARTS if subprocess.run([*command, "--part", part], check=False).returncode != 0]
        raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)
    torch.manual_seed(0)
    record = Record(args.output.with_stem(f"{args.output.stem}-{args.part}"), "int4", shape=asdict(Shape()))
    kernels = DecoderKernels(args.kernels)
    if args.part == "steps":
        time_steps(kernels, record, args.batches, args.past, args.block)
    else:
        run_checks(kernels, record, args.part)


if __name__ == "__main__":
    main()
