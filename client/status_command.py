"""`qwen3vl status`: what a server is doing."""

from __future__ import annotations

import argparse
import sys

from client.errors import ChatError
from client.status import ServerStatus, read_status

HELP = "show a server's models, slots and statistics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit codes: 0 the server is ready, 1 it is not, or there is none"
    parser.add_argument("--url", default="127.0.0.1:8000", help="HTTP host:port (default: 127.0.0.1:8000)")
    parser.add_argument("--metrics-url", default="127.0.0.1:8002", help="host:port (default: 127.0.0.1:8002)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="default: 10")


def run(args: argparse.Namespace) -> int:
    try:
        status = read_status(args.url, args.metrics_url, args.timeout)
    except ChatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(describe(status))
    return 0 if status.ready else 1


def describe(status: ServerStatus) -> str:
    state = "ready" if status.ready else "live, but not ready"
    lines = [f"{status.name} {status.version}: {state}, {status.role} server", "",
             f"{'model':<24} {'version':>7}  {'state':<11} {'requests':>9} {'failed':>7} {'mean ms':>8}"]
    for model in status.models:
        lines.append(f"{model.name:<24} {model.version:>7}  {model.state:<11} {model.succeeded:>9} {model.failed:>7} "
                     f"{model.mean_ms:>8.1f}")
    lines.append("")
    lines += [f"{name.replace('_', ' '):<24} {value:>10g}" for name, value in status.metrics.items()]
    return "\n".join(lines)
