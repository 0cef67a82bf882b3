"""Do visual rows stay on the GPU between vision encoder and decoder, are answers the same, and what does it save?

    python -m bench.decoder_cuda.rows_check WORK --output rows.json

Takes the build in WORK/build if it is one for the target `cuda` (that of `bench.decoder_cuda.serve_check`), or makes
one of a checkpoint of random weights with the shapes of Qwen3-VL-30B-A3B but few layers. Triton serves it twice, with
rows passed on in the GPU's memory and in the host's. Each check stands alone, and is given up after `--limit` seconds:
those behind it run all the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bench.decoder_cuda.checks import Checks, require, shared
from bench.decoder_cuda.rows_requests import Served
from bench.make_model import make_wide_model
from client.answer import Answer
from engines.builder import build_engines
from engines.fidelity.cases import picture
from engines.vision_encoder import shares_a_gpu
from export.exporter import export
from qwen3vl.errors import Qwen3VLError
from triton_repo.compose import compose
from triton_repo.device_rows import PLACES
from triton_repo.repository import Options
from triton_repo.server import TritonServer

LIMITS = {"prompt_tokens": 6144, "total_tokens": 6400, "queue": 64}
SLOTS, READY_SECONDS = 8, 180


def make_build(work: Path, layers: int) -> str:
    build = work / "build"
    try:
        if shares_a_gpu(build / "engines"):
            return f"{build} is there"
    except Qwen3VLError:
        pass
    if not (work / "checkpoint").exists():
        make_wide_model(work / "checkpoint", layers)
    export(work / "checkpoint", build, "bf16")
    build_engines(build, "cuda")
    return f"made {build}"


def rows_went(served: Served, place: str) -> str:
    """Which way they went, by the decoder's own counters."""
    device, host = served.row_bytes()
    log = served.server.log.path.read_text("utf-8", "replace")
    why = [line for line in log.splitlines() if "visual rows" in line or "cuda" in line.lower()]
    found = f"{device / 1e6:.1f} MB came in the GPU's memory, {host / 1e6:.1f} MB in the host's"
    right = (device > 0 and host == 0) if place == "device" else (host > 0 and device == 0)
    require(right, "\n".join([found, *why[-20:]]))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for checkpoint and build")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(1920, 1080), metavar=("WIDTH", "HEIGHT"),
                        help="of the large image, in pixels")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20, help="timed requests")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for each check, and twice that for a build")
    args = parser.parse_args(argv)
    check = Checks(args.limit)
    check("GPU memory can be shared between processes", shared)
    build = args.work / "build"
    Checks(2 * args.limit, check.results)("build", lambda: make_build(args.work, args.layers))
    answers: dict[str, list[Answer]] = {}
    times: dict[str, list[float]] = {}
    for place in PLACES:
        with ExitStack() as stack:
            served = check.here(f"{place}: server", lambda place=place, stack=stack: start(
                build, place, picture(*args.size, 1), args.work, stack))
            if served is None:
                continue
            answers[place] = check(f"{place}: answers", served.answers)
            check(f"{place}: way of the rows", lambda served=served, place=place: rows_went(served, place))
            times[place] = check(f"{place}: time", lambda served=served: served.seconds(args.rounds))
            if place == "device":
                check("device: load", lambda served=served: served.load(args.requests))
                check("device: way of the rows under load",
                      lambda served=served: "{:.0f} MB on the GPU, {:.0f} MB through the host".format(
                          *(count / 1e6 for count in served.row_bytes())))
                check("device: answers after load", lambda served=served: same(answers, served.answers()))
    check("answers are the same", lambda: same(answers, answers.get("host")))
    check("time of a request", lambda: compared(times))
    args.output.write_text(json.dumps({
        "command": "python -m bench.decoder_cuda.rows_check " + " ".join(argv or sys.argv[1:]),
        "image": list(args.size), "checks": check.results,
        "seconds": {place: found for place, found in times.items() if found}}, indent=1) + "\n")
    failed = [name for name, result in check.results.items() if not result["passed"]]
    print(f"{len(check.results) - len(failed)} of {len(check.results)} checks passed"
          + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


def start(build: Path, place: str, large: bytes, work: Path, stack: ExitStack) -> Served:
    compose(build, Options(slots=SLOTS, visual_rows=place), LIMITS)
    server = stack.enter_context(TritonServer(build, log=work / f"tritonserver-{place}.log"))
    server.wait_ready(READY_SECONDS)
    return Served(server, large)


def same(answers: dict[str, list[Answer] | None], others: list[Answer] | None) -> str:
    require(bool(answers.get("device")) and bool(others), "there are none to compare")
    for number, (answer, other) in enumerate(zip(answers["device"], others, strict=True)):
        require(answer == other, f"answer {number} is {answer}, expected {other}")
    return f"{len(others)} answers"


def compared(times: dict[str, list[float] | None]) -> str:
    medians = {place: float(np.median(found[1:])) * 1e3 for place, found in times.items() if found}
    require(len(medians) == len(PLACES), f"only {medians} were measured")
    return (f"median {medians['device']:.1f} ms with rows on the GPU, {medians['host']:.1f} ms through the host: "
            f"{medians['host'] - medians['device']:.1f} ms less")


if __name__ == "__main__":
    raise SystemExit(main())
