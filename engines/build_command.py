"""`qwen3vl build`: make the engines of a build folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.builder import ENGINES, TARGETS, build_engines
from engines.tensorrt.build import RTX_CAPABILITIES, TensorRTOptions
from engines.tensorrt.flavour import FLAVOURS
from engines.tensorrt.profiles import MAX_FRAMES

HELP = "make optimised engines from exported graphs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", type=Path, help="a folder written by `qwen3vl export`")
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="what the engines run on (default: cpu)")


    parser.add_argument("--engine", choices=ENGINES, action="append", help="make only this engine (default: both)")
    tensorrt = parser.add_argument_group("target tensorrt")
    tensorrt.add_argument("--flavour", choices=list(FLAVOURS), default="tensorrt",
                          help="TensorRT for this machine's GPU, or TensorRT for RTX, which needs none to build "
                               "(default: tensorrt)")
    tensorrt.add_argument("--compute-capability", type=lambda text: tuple(text.split(",")), default=(),
                          help=f"GPUs to build for, separated by commas; only tensorrt_rtx builds for others than this "
                               f"machine's (default there: {','.join(RTX_CAPABILITIES)})")
    tensorrt.add_argument("--max-image-pixels", type=int,
                          help="area of the largest prepared image (default: what the checkpoint's preprocessing "
                               "allows)")
    tensorrt.add_argument("--max-frames", type=int, default=MAX_FRAMES,
                          help=f"equal frames that one call may take (default: {MAX_FRAMES})")


def run(args: argparse.Namespace) -> int:
    tensorrt = TensorRTOptions(args.flavour, args.compute_capability, args.max_image_pixels, args.max_frames)
    build_engines(args.build, args.target, args.engine or ENGINES, tensorrt)
    return 0
