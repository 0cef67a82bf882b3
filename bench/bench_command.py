"""`qwen3vl bench`: latency and throughput of a build, through Triton and in process, beside `transformers`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench.environment import describe_machine
from bench.floor import copy_bandwidth, decoder_bytes_per_token
from bench.in_process import InProcess
from bench.measurement import Load, time_load
from bench.plot import plot_report
from bench.through_triton import ThroughTriton
from bench.with_transformers import WithTransformers
from engines.fidelity.cases import picture
from export.build_folder import BuildFolder

HELP = "measure latency and throughput"
QUESTION = "Describe the picture in detail."
PICTURE_SIDE = 224
VISION_SIDES = (128, 224, 448)
SLOTS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", type=Path, help="a build folder with a model repository; its checkpoint must be there")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer at most (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16], help="requests at the same time")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each load; the median counts")
    parser.add_argument("--no-transformers", action="store_true", help="leave the peer out")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the report, JSON; the plot goes beside it")


def run(args: argparse.Namespace) -> int:
    images = [picture(PICTURE_SIDE, PICTURE_SIDE, seed=0)]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    loads: dict[str, list[Load]] = {}
    with InProcess(args.build, SLOTS) as local:
        inputs = local.processor(messages=messages, images=images)
        loads["in process"] = _measure(args, "in process", lambda: local.stream(messages, images, args.tokens))
        vision = {"in process": {side: local.vision_seconds(side, args.rounds) for side in VISION_SIDES}}
        vision_inputs = {side: local.vision_inputs(side) for side in VISION_SIDES}
        bytes_per_token = decoder_bytes_per_token(local.vision.config)
    with ThroughTriton(args.build) as server:
        loads["through Triton"] = _measure(args, "through Triton", lambda: server.stream(messages, images, args.tokens))

    if not args.no_transformers:
        peer = WithTransformers(Path(BuildFolder(args.build).manifest["source"]["path"]))
        loads["transformers"] = [_show("transformers", peer.load(inputs, concurrency, args.tokens, args.rounds))
                                 for concurrency in args.concurrency]
        vision["transformers"] = {side: peer.vision_seconds(vision_inputs[side], args.rounds) for side in VISION_SIDES}

    bandwidth = copy_bandwidth()
    report = {
        "command": "qwen3vl " + shlex.join(["bench", *sys.argv[2:]]), **describe_machine(),
        "model": BuildFolder(args.build).manifest["config"], "prompt_tokens": len(inputs.token_ids),
        "answer_tokens": args.tokens, "picture": [PICTURE_SIDE, PICTURE_SIDE],
        "loads": {name: [asdict(load) for load in measured] for name, measured in loads.items()},
        "vision_seconds": vision,
        "triton_share_at_1": loads["through Triton"][0].total / loads["in process"][0].total - 1,
        "floor": {"copy_bytes_per_second": bandwidth, "decoder_bytes_per_token": bytes_per_token,
                  "seconds_per_token_at_1": bytes_per_token / bandwidth},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2) + "\n")
    plot_report(report, args.output.with_suffix(".png"))
    print(f"Triton's share at one request: {100 * report['triton_share_at_1']:.1f} %; floor of a decode step "
          f"{1e3 * report['floor']['seconds_per_token_at_1']:.1f} ms; {args.output} and its plot are written")
    return 0


def _measure(args: argparse.Namespace, name: str, serve: Callable) -> list[Load]:
    time_load(serve, 1, 1)  # loads the vision engine and warms up
    return [_show(name, time_load(serve, concurrency, args.rounds)) for concurrency in args.concurrency]


def _show(name: str, load: Load) -> Load:
    print(f"{name:15} {load.concurrency:3} at a time: first token {1e3 * load.first:7.1f} ms, answer "
          f"{load.total:6.2f} s, {load.tokens_per_second:7.1f} tokens/s", flush=True)
    return load
