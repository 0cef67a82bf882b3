"""The decoder in int4 and int8 on this CPU beside `transformers` and the floor, at the shapes of Qwen3-VL-30B-A3B.

    python -m bench.decoder_cpu.run --scratch build/decoder-cpu -o bench/results/decoder_cpu.json

Weights are random. int4 is measured whole, all 48 layers. What does not fit in 24 GB of memory is measured at three
depths, by turns, and a line through these is extended to 48 layers; each time comes with its interval. Needs 55 GB of
disk and 24 GB of memory. What has been measured is not measured again: after an interruption, call it again.

On a machine that others use, models can be made before (`--prepare`) and measured when it is quiet, a few at a time
(`--depths`): all of them together take 95 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from bench.decoder_cpu.loads import Loads
from bench.decoder_cpu.plot import plot
from bench.decoder_cpu.scratch import Scratch
from bench.decoder_cpu.summary import PEER, summary
from bench.environment import describe_machine
from export.build_folder import replacing
from qwen3vl.config import TextConfig

# By name, layers to measure. The deepest come first: their memory is then that of a process that has nothing else.
DEPTHS = {"int4": [48], "int8": [12, 6, 2], f"{PEER}bf16": [6, 4, 2], f"{PEER}fp32": [6, 4, 2]}
# The peer is slow: its steps are timed less often.
PEER_STEPS, PEER_ROUNDS = 5, 5


class Record:
    """The result's file, written anew with each measurement."""

    def __init__(self, path: Path, head: dict):
        self._path = path
        self.entries = json.loads(path.read_text()) if path.exists() else {**head, "measured": {}}
        for name, value in head.items():
            if name != "date" and self.entries.get(name) != value:
                raise SystemExit(f"{path} has {name} {self.entries.get(name)!r}, this run {value!r}: delete the file "
                                 "or choose another one")

    def has(self, name: str) -> bool:
        return name in self.entries["measured"]

    def add(self, name: str, result: dict) -> None:
        self.entries["measured"][name] = result
        self.entries["model"] = result.pop("model", self.entries.get("model"))
        self.save()

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(self.entries, indent=1) + "\n")


def sources(scratch: Scratch, name: str, depths: list[int]) -> list[Path]:
    """What is to be measured: a build of each depth, or a checkpoint of the largest one. Made where missing."""
    if name.startswith(PEER):
        return [scratch.checkpoint(max(depths))]
    return [scratch.build(name, layers) for layers in depths]


def measure(name: str, depths: list[int], folders: list[Path], loads: Loads) -> dict:
    """In a process of its own."""
    print(f"--- {name}", file=sys.stderr, flush=True)
    arguments = ["bench.decoder_cpu.engine", *map(str, folders)]
    if name.startswith(PEER):
        loads = replace(loads, steps=PEER_STEPS, rounds=PEER_ROUNDS)
        arguments = ["bench.decoder_cpu.peer", *map(str, folders), "--dtype", name.removeprefix(PEER), "--depths",
                     *map(str, depths)]
    command = [sys.executable, "-m", *arguments, "--loads", json.dumps(asdict(loads))]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def summarise(record: Record, output: Path) -> None:
    entries = record.entries
    model = {name: tuple(value) if isinstance(value, list) else value for name, value in entries["model"].items()}
    entries["summary"] = summary(entries["measured"], TextConfig(**model), entries["loads"]["past"])
    record.save()
    plot(entries, output.with_suffix(".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True,
                        help="folder for checkpoints and builds; deleted at the end")
    parser.add_argument("--depths", type=json.loads, default=DEPTHS,
                        help=f"whom to measure with how many layers, as JSON, int4 or int8 first (default: all, "
                             f"{json.dumps(DEPTHS)})")
    parser.add_argument("--prepare", action="store_true", help="make checkpoints and builds only, all of them")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/decoder_cpu.json"))
    args = parser.parse_args()
    loads, scratch = Loads(), Scratch(args.scratch)
    args.scratch.mkdir(parents=True, exist_ok=True)
    if args.prepare:
        for name, depths in args.depths.items():
            sources(scratch, name, depths)
        return
    head = {"command": "python -m bench.decoder_cpu.run", **describe_machine(),
            "loads": json.loads(json.dumps(asdict(loads)))}
    record = Record(args.output, head)
    for name, depths in args.depths.items():
        if not record.has(name):
            folders = sources(scratch, name, depths)
            record.add(name, measure(name, depths, folders, loads))
            if not name.startswith(PEER):  # whose checkpoint serves both types
                for folder in folders:
                    shutil.rmtree(folder)
    summarise(record, args.output)
    shutil.rmtree(args.scratch)


if __name__ == "__main__":
    main()
