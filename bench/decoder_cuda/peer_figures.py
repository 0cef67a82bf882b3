"""What the programs that time one of the decoder's peers have in common: their options and the file they write."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32, 128])
    made.add_argument("--prompts", type=int, nargs="*", default=[1024, 2048], help="tokens")
    made.add_argument("--past", type=int, default=1024, help="tokens in the cache before a step")
    made.add_argument("--repeats", type=int, default=15)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--output", type=Path, required=True, help="JSON file, written anew with each figure")
    return made


def write_figures(args: argparse.Namespace, step: Callable[[int], float], prompt: Callable[[int], float]) -> None:
    """Time steps of so many sequences and prompts of so many tokens, in milliseconds, each written once it is known."""
    found: dict[str, float] = {}
    timings = [*((f"step {batch}", step, batch) for batch in args.batches),
               *((f"prompt {tokens}", prompt, tokens) for tokens in args.prompts)]
    for name, time, size in timings:
        found[name] = time(size)
        args.output.write_text(json.dumps(found) + "\n")
        print(f"{name}: {found[name]:.3f} ms", flush=True)
