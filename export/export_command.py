"""`qwen3vl export`: a checkpoint to portable artifacts."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.exporter import PRECISIONS, export

HELP = "export a checkpoint to ONNX graphs with streamed weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a Hugging Face checkpoint folder of Qwen3-VL-MoE")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the build folder to write")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32",
                        help="element type of weights and activations (default: fp32)")


def run(args: argparse.Namespace) -> int:
    export(args.checkpoint, args.output, args.precision)
    return 0
