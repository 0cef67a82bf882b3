"""Decode steps and prompts at the shapes of Qwen3-VL-30B-A3B: the kernels here, their engine, and what else there is.

    python -m bench.decoder_cuda.peers WORK --kernels libdecoder_kernels.so --operators libdecoder_operators.so \\
        --output out.json

Sides: the kernels alone (`run` and `prefill`, device time); the engine as the server runs it (wall time, whole), with
weights of 4 bits too; the engine with ONNX Runtime's own operators; the decoder of `transformers` with a static cache,
eager and compiled. These last have few layers: but for the output projection and all else that is done once, time is
linear in layers, so that two depths give that of all 48. Each is a process of its own with a time limit; one that fails
leaves the others.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.decoder_cuda.peers_plot import plot
from bench.environment import describe_machine
from bench.gpu_serving.gpu import describe_gpu
from bench.gpu_serving.steps import Steps

LAYERS = 48
SIDES = ("kernels", "engine", "int4_engine", "own_operators", "transformers")
STEP_BATCHES, PROMPTS = ("1", "8", "32", "128"), ("1024", "2048")
COLUMNS = (*(f"step {batch}" for batch in STEP_BATCHES), *(f"prompt {tokens}" for tokens in PROMPTS))
OWN_DEPTHS, EAGER_DEPTHS, COMPILED_DEPTHS = (4, 8), (4, 8), (2, 4)
# It copies the weights of each token's experts, so that it may be quicker for one sequence alone.
BATCHED_MM_BATCHES = ("1",)


class Peers:
    """Args: `small` and `device` are for a trial on a CPU."""

    def __init__(self, work: Path, args: argparse.Namespace):
        self.work, self.args, self.steps = work, args, Steps(work, args.seconds)
        # Milliseconds: side -> number of layers -> column.
        self.found: dict[str, dict[int, dict[str, float]]] = {}

    def kernels(self) -> None:
        if self.args.kernels is None:
            return
        steps, prompts = self.work / "kernels.json", self.work / "kernels_prefill.json"
        options = ["--kernels", str(self.args.kernels), "--output"]
        self.steps.program("kernels", ["-m", "bench.decoder_cuda.run", *options, str(steps), "--batches",
                                       *STEP_BATCHES], 120)
        self.steps.program("kernels, prompts", ["-m", "bench.decoder_cuda.prefill", *options, str(prompts), "--tokens",
                                                *PROMPTS], 60)
        timed = {f"step {batch}": entry["step_ms"] for batch in STEP_BATCHES
                 if (entry := _read(steps).get(f"batch_{batch}"))}
        timed |= {f"prompt {row['tokens']}": row["ms"] for row in _read(prompts).get("timed", [])}
        self.found["kernels alone"] = {LAYERS: timed}

    def engine(self) -> None:
        """The build that is served where there is one, else one with all layers is made."""
        if self.args.operators is None and self.args.build is None:
            return
        build = self.args.build
        if build is None:
            build = self.work / "engine"
            if not self._make(build, LAYERS, "--decoder-kernels", str(self.args.operators)):
                return
        self._time("engine with these kernels", LAYERS, "bench.decoder_cuda.peer_engine", str(build))

    def int4_engine(self) -> None:
        if self.args.operators is None:
            return
        build = self.work / "engine_int4"
        if self._make(build, LAYERS, "--decoder-kernels", str(self.args.operators), "--precision", "int4-bf16"):
            self._time("engine with weights of 4 bits", LAYERS, "bench.decoder_cuda.peer_engine", str(build))
        shutil.rmtree(build, ignore_errors=True)

    def own_operators(self) -> None:
        for depth in OWN_DEPTHS:
            build = self.work / f"own_{depth}"
            if self._make(build, depth):
                self._time("ONNX Runtime's own operators", depth, "bench.decoder_cuda.peer_engine", str(build))
            shutil.rmtree(build, ignore_errors=True)

    def transformers(self) -> None:
        for depth in EAGER_DEPTHS:
            self._transformers("transformers, eager", depth)
        for depth in COMPILED_DEPTHS:
            self._transformers("transformers, compiled", depth, "--compile", "--prompts")
        for depth in COMPILED_DEPTHS:
            self._transformers("transformers, compiled, batched_mm", depth, "--compile", "--prompts", "--experts",
                               "batched_mm", "--batches", *BATCHED_MM_BATCHES)

    def _transformers(self, side: str, depth: int, *more: str) -> None:
        self._time(side, depth, "bench.decoder_cuda.peer_transformers", "--layers", str(depth), *more,
                   *(["--small"] if self.args.small else []))

    def _make(self, build: Path, depth: int, *more: str) -> bool:
        precision = ["--precision", "fp32"] if self.args.device == "cpu" else []
        return self.steps.program(f"make {build.name}", [
            "-m", "bench.gpu_serving.build", str(build), "--no-vision", "--layers", str(depth), "--distinct", "1",
            "--vision-depth", "5", *more, *precision, *(["--small"] if self.args.small else [])], 90)

    def _time(self, side: str, depth: int, module: str, *arguments: str) -> None:
        name = f"{side}, {depth} layers"
        output = self.work / f"{''.join(c if c.isalnum() else '_' for c in name)}.json"
        self.steps.program(name, ["-m", module, "--batches", *STEP_BATCHES, "--prompts", *PROMPTS, "--device",
                                  self.args.device, "--repeats", str(self.args.repeats), "--output", str(output),
                                  *arguments], self.args.limit)
        self.found.setdefault(side, {})[depth] = _read(output)


def at(layers: int, depths: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Milliseconds of so many layers: measured, or on the line through two depths."""
    if layers in depths:
        return dict(depths[layers])
    if len(depths) < 2:
        return {}
    (shallow, few), (deep, many) = sorted(depths.items())
    return {column: few[column] + (layers - shallow) * (many[column] - few[column]) / (deep - shallow)
            for column in COLUMNS if column in few and column in many}


def table(sides: Mapping[str, Mapping[str, float]]) -> str:
    width = max(map(len, sides), default=0)
    lines = [" " * width + "".join(f"{column:>13}" for column in COLUMNS)]
    for side, columns in sides.items():
        lines.append(f"{side:<{width}}" + "".join(f"{columns[column]:13.3f}" if column in columns else f"{'-':>13}"
                                                  for column in COLUMNS))
    return "\n".join(lines)


def _read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for engines and logs; 3 GB")
    parser.add_argument("--kernels", type=Path, help="libdecoder_kernels.so; without, that side is left out")
    parser.add_argument("--operators", type=Path, help="libdecoder_operators.so; without, that side is left out")
    parser.add_argument("--build", type=Path, help="a build with all layers (default: one is made)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="(default: all)")
    parser.add_argument("--limit", type=float, default=150, help="seconds for each process (default: 150)")
    parser.add_argument("--seconds", type=float, default=900, help="for everything (default: 900)")
    parser.add_argument("--repeats", type=int, default=15, help="of each step and prompt (default: 15)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="narrow, to try it")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write; a plot goes beside it")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    for old in args.work.glob("*.json"):
        old.unlink()
    peers = Peers(args.work, args)
    for side in args.sides:
        getattr(peers, side)()
        sides = {name: at(LAYERS, depths) for name, depths in peers.found.items()}
        report = {
            "command": shlex.join(["python", "-m", "bench.decoder_cuda.peers", *(argv or sys.argv[1:])]),
            **describe_machine(), "gpu": describe_gpu(), "layers": LAYERS, "measured_ms": peers.found,
            "milliseconds": sides, "steps": peers.steps.to_json()}
        args.output.write_text(json.dumps(report, indent=1) + "\n")
    if any(report["milliseconds"].values()):
        plot(report, COLUMNS, args.output.with_suffix(".png"))
    print(f"\n{peers.steps.table()}\n\nmilliseconds of {LAYERS} layers; steps of so many sequences with 1024 tokens "
          f"each, prompts of so many tokens\n{table(sides)}")
    return 0 if all(step.outcome == "ok" for step in peers.steps.done) else 1


if __name__ == "__main__":
    raise SystemExit(main())
