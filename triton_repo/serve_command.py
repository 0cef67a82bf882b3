"""`qwen3vl serve`: run Triton on the model repository of a build."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

from qwen3vl.errors import ArtifactError
from triton_repo.build_paths import ENCODE_SERVERS_FILE, BuildPaths
from triton_repo.endpoints import Endpoints
from triton_repo.roles import Role
from triton_repo.server import TritonServer
from triton_repo.split.server_list import read_servers, write_servers

HELP = "serve a build with Triton Inference Server"
CHECK_SECONDS = 1.0
LOG_FILE = "tritonserver.log"


def log_file(role: Role) -> str:
    """Name of a server's log in the build folder."""
    return LOG_FILE if role is Role.BOTH else f"tritonserver-{role}.log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Endpoints()
    parser.add_argument("build", type=Path, help="a build folder with a model repository, written by `qwen3vl compose`")
    parser.add_argument("--role", type=Role, choices=list(Role), default=Role.BOTH,
                        help="which of the build's model repositories to serve (default: both)")
    parser.add_argument("--encode-server", action="append", metavar="HOST:PORT",
                        help=f"gRPC endpoint of an encode server, for --role language; may be given several times, and "
                             f"replaces the list in {ENCODE_SERVERS_FILE} in the build folder, which may be edited at "
                             "any time")
    parser.add_argument("--server", help="the tritonserver to run (default: the one on PATH, else the one in the "
                                         "nvidia-pytriton package)")
    parser.add_argument("--host", default=defaults.host,
                        help=f"address to listen on (default: {defaults.host}, this machine only)")
    for name, port in (("http", defaults.http), ("grpc", defaults.grpc), ("metrics", defaults.metrics)):
        parser.add_argument(f"--{name}-port", type=int, default=port,
                            help=f"port for {name}, 0 for any free one (default: {port})")
    parser.add_argument("--log", type=Path, help=f"file for the server's log (default: {LOG_FILE} in the build folder, "
                                                 "with the role in its name if it is encode or language)")
    parser.add_argument("--ready-timeout", type=float, default=600.0, metavar="SECONDS",
                        help="how long loading may take (default: 600)")


def run(args: argparse.Namespace) -> int:
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    if args.role is Role.LANGUAGE:
        _list_encode_servers(BuildPaths(args.build).encode_servers_file, args.encode_server)
    elif args.encode_server:
        raise ArtifactError(f"--encode-server {args.encode_server[0]} is for --role language, but the role is "
                            f"{args.role}")
    endpoints = Endpoints(args.host, args.http_port, args.grpc_port, args.metrics_port)
    log = args.log or args.build / log_file(args.role)
    with TritonServer(args.build, args.server, endpoints, log, args.role) as server:
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


def _list_encode_servers(file: Path, servers: list[str] | None) -> None:
    if servers:
        write_servers(file, servers)
    elif not read_servers(file):
        print(f"there are no encode servers yet: requests with images get an error until {file} lists one",
              file=sys.stderr, flush=True)


def _progress(started: float):
    def show(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)

    return show
