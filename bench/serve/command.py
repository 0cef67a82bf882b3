"""`qwen3vl bench serve`: a server under load."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from bench.serve.calibration import calibrate, request_set
from bench.serve.errors import BenchError
from bench.serve.measure import Plan, measure
from bench.serve.memory import memory_trend
from bench.serve.report import make_report, write_report
from bench.serve.server_watch import ServerWatch
from bench.serve.table import HEADER, conclusion, introduction, row
from bench.serve.target import Target, running, started
from bench.serve.workload import Range, Workload

HELP = "measure a server under load"
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Workload()
    parser.epilog = ("Without --rate and --concurrency, loads are offered one after the other until the server "
                     "saturates. Ctrl-C ends the measurement; what there is by then is written. Exit codes: 0 "
                     "measured, 1 nothing answered or, with --verify, answers that differ, 130 interrupted.")
    parser.add_argument("build", type=Path, nargs="?",
                        help="a build folder to serve meanwhile; with --url, that server's folder, for its limits")
    parser.add_argument("--url", metavar="HOST:PORT", help="gRPC endpoint of a server that runs already")
    parser.add_argument("--metrics-url", metavar="HOST:PORT", help="its metrics (default: port 8002 of the same host)")
    parser.add_argument("--server", help="the tritonserver to start (default: as `qwen3vl serve`)")
    parser.add_argument("--rate", type=float, nargs="+", default=[], metavar="R",
                        help="offered loads, requests per second")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[], metavar="N",
                        help="loads of N requests under way at once, each new one after another's end")
    parser.add_argument("--capacity-concurrency", type=int, default=32, metavar="N",
                        help="requests under way while a sweep finds out what the server can do (default: 32)")
    parser.add_argument("--requests", type=int, default=100, help="of each load (default: 100)")
    parser.add_argument("--load-seconds", type=float, metavar="SECONDS",
                        help="how long requests come in each offered load, at least 20 of them, instead of --requests")
    parser.add_argument("--disconnects", type=float, default=0.0, metavar="SHARE",
                        help="share of clients that hang up before their answer ends (default: 0)")
    parser.add_argument("--verify", action="store_true", help="ask all requests again, one at a time, and compare")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for each answer (default: none)")
    requests = parser.add_argument_group("requests", "each number is drawn evenly from its range")
    for name, default, text in (("text-tokens", defaults.text_tokens, "of the question, less where limits ask for it"),
                                ("images", defaults.images, "in a request"),
                                ("answer-tokens", defaults.answer_tokens, "at most")):
        requests.add_argument(f"--{name}", type=int, nargs=2, metavar=("LEAST", "MOST"),
                              default=(default.least, default.most),
                              help=f"{text} (default: {default.least} {default.most})")
    requests.add_argument("--image-size", type=_size, nargs="+", metavar="WxH", default=defaults.image_sizes,
                          help="in pixels (default: "
                               f"{' '.join(f'{width}x{height}' for width, height in defaults.image_sizes)})")
    requests.add_argument("--seed", type=int, default=0, help="the same seed makes the same requests (default: 0)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the report, JSON; plots go beside it")


def run(args: argparse.Namespace) -> int:
    _check(args)
    workload = Workload(Range(*args.text_tokens), Range(*args.images), tuple(args.image_size),
                        Range(*args.answer_tokens), args.seed)
    plan = Plan(args.requests, args.rate, args.concurrency, args.capacity_concurrency, args.verify, args.seed,
                args.load_seconds)
    with _target(args) as target:
        print("asking what words and images come to ...", file=sys.stderr, flush=True)
        found, workload = calibrate(target, workload)
        print(introduction(target, workload, found), HEADER, sep="\n", flush=True)
        with ServerWatch(target.metrics_url, target.pid, interval=0.5 if args.requests <= 1000 else 2.0) as watch:
            _say_what_is_missing(target, watch)
            measurement = measure(target.url, request_set(workload, found, args.disconnects), args.timeout, plan, watch,
                                  lambda load: print(row(load), flush=True))
        command = "qwen3vl " + shlex.join(["bench", "serve", *sys.argv[3:]])
        written = write_report(make_report(command, target, workload, found, measurement, watch), args.output)
    print(*conclusion(measurement.verification, memory_trend(watch.samples)),
          f"written: {', '.join(map(str, written))}", sep="\n", flush=True)
    if measurement.interrupted:
        return INTERRUPTED
    answered = any(load.answered for load in measurement.sweep.summaries)
    return 0 if answered and not (measurement.verification and measurement.verification.differences) else 1


def _say_what_is_missing(target: Target, watch: ServerWatch) -> None:
    if watch.samples[0].queued is None:
        print(f"the queue is not recorded: there are no metrics at {target.metrics_url} (--metrics-url)",
              file=sys.stderr)
    if watch.samples[0].memory_bytes is None:
        print(f"memory is not recorded: the process behind {target.url} is not on this machine, or another user's",
              file=sys.stderr)


def _target(args: argparse.Namespace) -> AbstractContextManager[Target]:
    if args.url:
        return nullcontext(running(args.url, args.metrics_url, args.build))
    if args.build:
        return started(args.build, args.server)
    raise BenchError("there is nothing to measure: give a build folder to serve, or --url of a server that runs")


def _check(args: argparse.Namespace) -> None:
    for name, values, valid, expected in (
            ("requests", [args.requests], lambda value: value > 0, "a number above 0"),
            ("rate", args.rate, lambda value: 0 < value < float("inf"), "a number above 0"),
            ("concurrency", args.concurrency, lambda value: value > 0, "a number above 0"),
            ("capacity-concurrency", [args.capacity_concurrency], lambda value: value > 0, "a number above 0"),
            ("load-seconds", [args.load_seconds] if args.load_seconds is not None else [],
             lambda value: 0 < value < float("inf"), "a number above 0"),
            ("disconnects", [args.disconnects], lambda value: 0 <= value <= 1, "a share from 0 to 1"),
            ("seed", [args.seed], lambda value: value >= 0, "0 or more")):
        for value in values:
            if not valid(value):
                raise BenchError(f"--{name} is {value}, expected {expected}")


def _size(text: str) -> tuple[int, int]:
    width, x, height = text.partition("x")
    if not (x and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, such as 448x336")
    return int(width), int(height)
