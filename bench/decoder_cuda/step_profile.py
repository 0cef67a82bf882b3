"""Where the time of an engine's decode step goes: each kernel's share of the GPU's part, and the host's part.

    python -m bench.decoder_cuda.step_profile BUILD --output out.json

Steps are timed by the host's clock, as the server runs them and one by one, each begun when the one before is read.
Those one by one are then recorded by CUPTI (torch's profiler), which slows the host, not the GPU. The host's part is
the wall time beyond the GPU's span. BUILD needs the decoder's engine, for the target `cuda`; `python -m
bench.gpu_serving.build BUILD --no-vision` makes one.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.decoder_cuda.peer_engine import Timed
from bench.decoder_cuda.peer_figures import median_milliseconds
from bench.decoder_cuda.step_timeline import Interval, shares, span, steps_of
from bench.environment import describe_machine
from bench.gpu_serving.gpu import describe_gpu

RECORDED = 12  # steps
UNCOUNTED = 2  # of these
INPUTS = "Memcpy HtoD"


def recorded(step: Callable[[], None]) -> list[list[Interval]]:
    """What the GPU did in some steps."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(RECORDED):
            step()
        torch.cuda.synchronize()
    # A step's inputs are copied before its graph is launched, which takes long while it is recorded: idle time within.
    events = (event for event in found.profiler.kineto_results.events()
              if "CUDA" in str(event.device_type()) and not event.name().startswith(INPUTS))
    intervals = [Interval(event.name(), event.start_ns(), event.start_ns() + event.duration_ns()) for event in events
                 if event.duration_ns() > 0]
    return steps_of(intervals, RECORDED)[UNCOUNTED:]


def profiled(timed: Timed, batch: int, past: int) -> dict[str, object]:
    """Microseconds of a step, of the GPU's part, and of each kernel's share of that."""
    step = timed.step(batch, past)
    wall = {"wall_us": 1e3 * timed.step_milliseconds(batch, past),
            "one_by_one_us": 1e3 * median_milliseconds(step, timed.repeats)}
    steps = recorded(step)
    spans = sorted(map(span, steps))
    return {**wall, "gpu_us": spans[len(spans) // 2], "kernels": shares(steps)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--past", type=int, default=1024, help="tokens in the cache before a step (default: 1024)")
    parser.add_argument("--repeats", type=int, default=25, help="of each timed step (default: 25)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file, written anew with each batch")
    args = parser.parse_args(argv)
    report: dict[str, object] = {
        "command": "python -m bench.decoder_cuda.step_profile " + shlex.join(argv or sys.argv[1:]),
        **describe_machine(), "gpu": describe_gpu(), "past": args.past}
    timed = Timed(args.build / "engines", max(args.batches), args.past + 16, "cuda", args.repeats)
    for batch in args.batches:
        found = report[f"batch_{batch}"] = profiled(timed, batch, args.past)
        args.output.write_text(json.dumps(report, indent=1) + "\n")
        print(f"step of {batch}: {found['wall_us']:.0f} us, one by one {found['one_by_one_us']:.0f}, the GPU's part "
              f"{found['gpu_us']:.0f}")
        for name, share in found["kernels"].items():
            print(f"{share['us']:12.1f} us  x {share['count']:3g}  {name}", flush=True)


if __name__ == "__main__":
    main()
