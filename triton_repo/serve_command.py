"""`qwen3vl serve`: run Triton on the model repository of a build."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

from triton_repo.server import Endpoints, TritonServer

HELP = "serve a build with Triton Inference Server"
CHECK_SECONDS = 1.0
LOG_FILE = "tritonserver.log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Endpoints()
    parser.add_argument("build", type=Path, help="a build folder with a model repository, written by `qwen3vl compose`")
    parser.add_argument("--server", help="the tritonserver to run (default: the one on PATH, else the one in the "
                                         "nvidia-pytriton package)")
    parser.add_argument("--host", default=defaults.host,
                        help=f"address to listen on (default: {defaults.host}, this machine only)")
    for name, port in (("http", defaults.http), ("grpc", defaults.grpc), ("metrics", defaults.metrics)):
        parser.add_argument(f"--{name}-port", type=int, default=port,
                            help=f"port for {name}, 0 for any free one (default: {port})")
    parser.add_argument("--log", type=Path, help=f"file for the server's log (default: {LOG_FILE} in the build folder)")
    parser.add_argument("--ready-timeout", type=float, default=600.0, metavar="SECONDS",
                        help="how long loading may take (default: 600)")


def run(args: argparse.Namespace) -> int:
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    endpoints = Endpoints(args.host, args.http_port, args.grpc_port, args.metrics_port)
    with TritonServer(args.build, args.server, endpoints, args.log or args.build / LOG_FILE) as server:
        started = time.monotonic()
        server.wait_ready(args.ready_timeout, _progress(started), stopping.is_set)
        if not stopping.is_set():
            at = server.endpoints
            print(f"ready after {time.monotonic() - started:.1f} s\n"
                  f"  gRPC     {at.host}:{at.grpc}\n"
                  f"  HTTP     http://{at.host}:{at.http}\n"
                  f"  metrics  http://{at.host}:{at.metrics}/metrics\n"
                  f"  log      {server.log.path}\n"
                  "press Ctrl-C to stop", flush=True)
        while not stopping.wait(CHECK_SECONDS):
            server.check()
        print("stopping", file=sys.stderr, flush=True)
    return 0


def _progress(started: float):
    def show(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)

    return show
