"""`qwen3vl build`: make the engines of a build folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.builder import TARGETS, build_engines

HELP = "make optimised engines from exported graphs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", type=Path, help="a folder written by `qwen3vl export`")
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="what the engines run on (default: cpu)")


def run(args: argparse.Namespace) -> int:
    build_engines(args.build, args.target)
    return 0
