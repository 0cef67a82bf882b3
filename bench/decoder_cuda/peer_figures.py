"""What the programs that time one of the decoder's peers share: their options, their timing and the file they write."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

UNCOUNTED = 4  # calls, of each figure


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32, 128])
    made.add_argument("--prompts", type=int, nargs="*", default=[1024, 2048], help="tokens")
    made.add_argument("--past", type=int, default=1024, help="tokens in the cache before a step")
    made.add_argument("--repeats", type=int, default=15)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--output", type=Path, required=True, help="JSON file, written anew with each figure")
    return made


def median_milliseconds(run: Callable[[], object], repeats: int, before: Callable[[], object] = lambda: None) -> float:
    """Wall time of a call, after some that are not counted; `before` comes before each and is not timed."""
    times = []
    for _ in range(UNCOUNTED + repeats):
        before()
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[UNCOUNTED:])


def write_figures(args: argparse.Namespace, step: Callable[[int], float], prompt: Callable[[int], float]) -> None:
    """Time steps of so many sequences and prompts of so many tokens, in milliseconds, each written once it is known."""
    found: dict[str, float] = {}
    timings = [*((f"step {batch}", step, batch) for batch in args.batches),
               *((f"prompt {tokens}", prompt, tokens) for tokens in args.prompts)]
    for name, timing, size in timings:
        found[name] = timing(size)
        args.output.write_text(json.dumps(found) + "\n")
        print(f"{name}: {found[name]:.3f} ms", flush=True)
