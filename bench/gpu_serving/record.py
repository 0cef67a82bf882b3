"""All that is measured of serving on a GPU, in one go: first token of an image, load, whole beside split, hand-off.

    python -m bench.gpu_serving.record BUILD --results FOLDER --name h200

BUILD is a build folder with both engines, such as `bench.gpu_serving.build` makes. Each part has a time limit and its
own file of results; one that fails leaves the others. About five minutes; `--trial` is for the bundled model on a CPU.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.environment import describe_machine
from bench.gpu_serving.gpu import describe_gpu
from bench.gpu_serving.steps import Steps
from bench.gpu_serving.summary import summary
from triton_repo.compose import compose
from triton_repo.device_rows import DEVICE, HOST, PLACES
from triton_repo.endpoints import Endpoints
from triton_repo.repository import Options
from triton_repo.roles import Role
from triton_repo.server import TritonServer

PARTS = ("first_token", "serve", "split", "handoff")
FREE = Endpoints(http=0, grpc=0, metrics=0)


@dataclass(frozen=True)
class Sizes:
    """What is asked for.

    Attributes:
        slots, limits: of the deployments.
        first_token, serve, split, handoff: arguments of the programs.
        limit: seconds that each part may take.
        ready_limit: seconds until a server is ready.
    """

    slots: int
    limits: dict[str, int]
    first_token: tuple[str, ...]
    serve: tuple[str, ...]
    split: tuple[str, ...]
    handoff: tuple[str, ...]
    limit: dict[str, float]
    ready_limit: float = 180


FULL = Sizes(
    slots=64, limits={"prompt_tokens": 8448, "total_tokens": 8704},
    first_token=("--repeats", "11"),
    serve=("--requests", "128", "--capacity-concurrency", "64", "--load-seconds", "10"),
    split=("--images", "1", "2", "4", "--clients", "1", "8", "--requests", "24", "--tokens", "32", "--side", "448",
           "1440"),
    handoff=("--rounds", "11", "--dtypes", "BF16", "FP32", "--block-mib", "8"),
    limit={"first_token": 60, "serve": 150, "split": 150, "handoff": 60})
TRIAL = Sizes(
    slots=2, limits={"prompt_tokens": 1024, "total_tokens": 1280},
    first_token=("--repeats", "3", "--size", "320", "192"),
    serve=("--requests", "12", "--load-seconds", "1", "--text-tokens", "64", "256", "--images", "0", "2",
           "--image-size", "64x64", "--answer-tokens", "4", "16", "--capacity-concurrency", "4"),
    split=("--images", "1", "--clients", "2", "--requests", "6", "--tokens", "3", "--side", "96"),
    handoff=("--rounds", "1", "--dtypes", "FP32", "--block-mib", "16"),
    limit={"first_token": 60, "serve": 90, "split": 60, "handoff": 60})


class Recording:
    """Args: `results` and `name` say where files go: `<results>/<part>_<name>.json`; `seconds` are for all of it."""

    def __init__(self, build: Path, results: Path, name: str, sizes: Sizes, logs: Path, seconds: float):
        self.build, self.sizes, self._results, self._name = build, sizes, results, name
        self._logs, self.steps = logs, Steps(logs, seconds)

    def file(self, part: str) -> Path:
        return self._results / f"{part}_{self._name}.json"

    def part(self, part: str, program: Sequence[str], *more: str) -> bool:
        """Run the program of a part, or of one that is called after it, with its arguments; `more` come last."""
        base = next(name for name in PARTS if part.startswith(name))
        return self.steps.program(part, [*program, *getattr(self.sizes, base), *more], self.sizes.limit[base])

    def whole(self, parts: Sequence[str], places: Sequence[str]) -> None:
        """What is asked of a whole server that passes visual rows on in the first of these places; of others, the first
        token alone. If one does not start or answer, the next is asked for all, at last one in the host's memory."""
        tried, done = list(dict.fromkeys([*places, HOST])), False
        for place in tried:
            if done and (place not in places or "first_token" not in parts):
                continue
            server = self.steps.call(f"start a whole server, rows: {place}", lambda place=place: self._start(place))
            if server is None:
                continue
            try:
                asked = ["first_token"] if done else parts
                done |= self._ask(server, asked, f"_{place}" if done else "", last=place == tried[-1])
            finally:
                self.steps.call("stop the server", server.stop)

    def _ask(self, server: TritonServer, parts: Sequence[str], suffix: str, *, last: bool) -> bool:
        """Whether the server was worth asking: where an image's first token fails the rest would, too."""
        print(f"GPU: {describe_gpu()}", flush=True)
        url, metrics = (f"{server.endpoints.local_host}:{port}" for port in (server.endpoints.grpc,
                                                                             server.endpoints.metrics))
        if "first_token" in parts:
            output = self.file(f"first_token{suffix}")
            self.part(f"first_token{suffix}", ["-m", "bench.gpu_serving.first_token", str(self.build), "--url", url,
                                               "--output", str(output)])
            if not (output.exists() or last):
                return False
        if "serve" in parts:
            self.part("serve", ["-m", "client.cli", "bench", "serve", str(self.build), "--url", url,
                                "--metrics-url", metrics, "-o", str(self.file("serve"))])
        if "split" in parts:
            self.part("split whole", self._split("whole"), "--url", url)
        return True

    def _split(self, deployment: str) -> list[str]:
        return ["-m", "bench.split", str(self.build), "-o", str(self.file("split")), "--rounds", "1",
                "--deployments", deployment]

    def split(self) -> None:
        """The same loads as of the whole server, beside them in the file where it was measured."""
        for role in (Role.ENCODE, Role.LANGUAGE):
            self.steps.call(f"compose {role.value}", lambda role=role: self._compose(role, Options(self.sizes.slots)))
        self.part("split apart", self._split("split"), *(["--append"] if self.file("split").exists() else []))

    def handoff(self) -> None:
        self.part("handoff", ["-m", "bench.handoff", "-o", str(self.file("handoff"))])

    def _compose(self, role: Role, options: Options) -> None:
        compose(self.build, options, self.sizes.limits, role)

    def _start(self, place: str) -> TritonServer:
        self._compose(Role.BOTH, Options(self.sizes.slots, visual_rows=place))
        server = TritonServer(self.build, endpoints=FREE, log=self._logs / "tritonserver.log")
        try:
            server.wait_ready(self.sizes.ready_limit, lambda line: print(f"  {line}", flush=True))
        except BaseException:
            server.stop()
            raise
        return server


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="(default: bench/results)")
    parser.add_argument("--logs", type=Path, help="folder for the programs' output (default: BUILD/logs)")
    parser.add_argument("--name", default="h200", help="in the files' names (default: h200)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--visual-rows", nargs="+", choices=PLACES, default=[DEVICE],
                        help="where the whole server passes them on; in all but the first place, the first token is "
                             f"all that is measured (default: {DEVICE})")
    parser.add_argument("--seconds", type=float, default=500, help="for everything (default: 500)")
    parser.add_argument("--trial", action="store_true", help="as little as shows that it works")
    args = parser.parse_args(argv)
    logs = args.logs or args.build / "logs"
    for folder in (logs, args.results):
        folder.mkdir(parents=True, exist_ok=True)
    recording = Recording(args.build, args.results, args.name, TRIAL if args.trial else FULL, logs, args.seconds)
    steps, started = recording.steps, time.monotonic()
    files = {part: recording.file(part) for part in [*args.parts, *(f"first_token_{place}" for place in PLACES)]}
    for file in files.values():
        file.unlink(missing_ok=True)
    if set(args.parts) & {"first_token", "serve", "split"}:
        recording.whole(args.parts, args.visual_rows)
    if "split" in args.parts:
        recording.split()
    if "handoff" in args.parts:
        recording.handoff()
    recording.file("steps").write_text(json.dumps({
        "command": shlex.join(["python", "-m", "bench.gpu_serving.record", *(argv or sys.argv[1:])]),
        **describe_machine(), "gpu": describe_gpu(), "steps": steps.to_json()}, indent=1) + "\n")
    made = {part: file for part, file in files.items() if part in args.parts or file.exists()}
    print(f"\n{steps.table()}\n\n{summary(made)}\n{time.monotonic() - started:.0f} s in all; results in {args.results}",
          flush=True)
    return 0 if all(step.outcome == "ok" for step in steps.done) else 1


if __name__ == "__main__":
    raise SystemExit(main())
