"""The decoder in int4 and int8 on this CPU beside `transformers` and the floor, at the shapes of Qwen3-VL-30B-A3B.

    python -m bench.decoder_cpu.run --scratch build/decoder-cpu -o bench/results/decoder_cpu.json

Weights are random. Everybody is timed with 1 and with 4 of the 48 layers, each in a process of its own; the difference
is the cost of three layers, from which 48 are extrapolated. int4 is timed with 8 layers too, to see if that holds.
Needs 26 GB of disk and 16 GB of memory. What has been measured is not measured again: after an interruption, call it
again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from bench.decoder_cpu.floor import read_bandwidth
from bench.decoder_cpu.loads import Loads
from bench.decoder_cpu.plot import plot
from bench.decoder_cpu.scratch import Scratch
from bench.decoder_cpu.summary import summary
from bench.environment import describe_machine
from export.build_folder import replacing
from export.precision import QUANTISED

# Tokens of a prompt in one call.
CHUNKS = (256, 512)
# The peer is slow: it is timed less often.
PEER_STEPS, PEER_ROUNDS = 20, 2


class Record:
    """The result's file, written anew with each measurement."""

    def __init__(self, path: Path, head: dict):
        self._path = path
        self.entries = json.loads(path.read_text()) if path.exists() else {**head, "measured": {}}
        for name, value in head.items():
            if name != "date" and self.entries.get(name) != value:
                raise SystemExit(f"{path} has {name} {self.entries.get(name)!r}, this run {value!r}: delete the file "
                                 "or choose another one")

    def has(self, name: str, layers: int) -> bool:
        return str(layers) in self.entries["measured"].get(name, {})

    def add(self, name: str, layers: int, result: dict) -> None:
        self.entries["measured"].setdefault(name, {})[str(layers)] = result
        self.save()

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(self.entries, indent=1) + "\n")


class Measurements:
    """Everything that is measured, one after the other."""

    def __init__(self, record: Record, scratch: Scratch, loads: Loads):
        self._record, self._scratch, self._loads = record, scratch, loads

    def engines(self, precision: str, layers: int) -> None:
        names = {chunk: f"{precision}, chunks of {chunk}" for chunk in CHUNKS}
        missing = {chunk: name for chunk, name in names.items() if not self._record.has(name, layers)}
        if not missing:
            return
        build = self._scratch.build(precision, layers)
        for chunk, name in missing.items():
            self._measure(name, layers, "engine", str(build), "--chunk", str(chunk))
        self._record.entries["model"] = self._scratch.parameters(build)
        self._scratch.discard(build)

    def peers(self, dtype: str, layers: int) -> None:
        name = f"transformers {dtype}"
        if not self._record.has(name, layers):
            self._measure(name, layers, "peer", str(self._scratch.checkpoint(layers)), "--dtype", dtype,
                          loads=replace(self._loads, steps=PEER_STEPS, rounds=PEER_ROUNDS))

    def _measure(self, name: str, layers: int, module: str, *arguments: str, loads: Loads | None = None) -> None:
        print(f"--- {name}, {layers} layers", file=sys.stderr, flush=True)
        before = read_bandwidth()
        command = [sys.executable, "-m", f"bench.decoder_cpu.{module}", *arguments, "--loads",
                   json.dumps(asdict(loads or self._loads))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        # The better of both: whatever else this machine did meanwhile only took from it.
        bandwidth = max(before, read_bandwidth())
        self._record.add(name, layers, {**json.loads(done.stdout), "read_bytes_per_second": bandwidth})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True,
                        help="folder for checkpoints and builds; deleted at the end")
    parser.add_argument("--layers", type=int, nargs=2, default=(1, 4), help="of the two measurements (default: 1 4)")
    parser.add_argument("--deep", type=int, default=8, help="layers to check the extrapolation with (default: 8)")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/decoder_cpu.json"))
    args = parser.parse_args()
    few, many = args.layers
    loads = Loads()
    head = {"command": "python -m " + " ".join(["bench.decoder_cpu.run", *sys.argv[1:]]), **describe_machine(),
            "loads": json.loads(json.dumps(asdict(loads))), "layers": [few, many]}
    record = Record(args.output, head)
    args.scratch.mkdir(parents=True, exist_ok=True)
    work = Measurements(record, Scratch(args.scratch, max(many, args.deep)), loads)
    for precision in QUANTISED:
        for layers in (few, many, *([args.deep] if precision == "int4" else [])):
            work.engines(precision, layers)
    for dtype in ("bf16", "fp32"):
        for layers in (few, many):
            work.peers(dtype, layers)
    record.entries["summary"] = summary(record.entries)
    record.save()
    plot(record.entries, args.output.with_suffix(".png"))
    shutil.rmtree(args.scratch)


if __name__ == "__main__":
    main()
