"""`qwen3vl build`: make the engines of a build folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.builder import ENGINES, TARGETS, build_engines
from engines.onnxruntime.cuda_build import CudaBuildOptions
from engines.tensorrt.build import RTX_CAPABILITIES, TensorRTOptions
from engines.tensorrt.flavour import FLAVOURS
from engines.tensorrt.profiles import MAX_FRAMES
from engines.trtllm.options import PLUGIN_LIBRARY, TrtllmBuildOptions
from export.trtllm.plan import Deployment

HELP = "make optimised engines from exported graphs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", type=Path, help="a folder written by `qwen3vl export`")
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="what the engines run on (default: cpu)")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="make only this engine (default: both)")
    cuda = parser.add_argument_group("target cuda")
    cuda.add_argument("--vision-kernels", type=Path, metavar="LIBRARY",
                      help="library of plugins/vision_kernels, for Hopper GPUs (default: ONNX Runtime's own operators)")
    cuda.add_argument("--decoder-kernels", type=Path, metavar="LIBRARY",
                      help="operator library of plugins/decoder_kernels, for Hopper GPUs and the shapes of "
                           "Qwen3-VL-30B-A3B (default: ONNX Runtime's own operators)")
    tensorrt = parser.add_argument_group("targets tensorrt and trtllm: the vision encoder")
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
    _add_trtllm_arguments(parser.add_argument_group("target trtllm: the decoder"))


def _add_trtllm_arguments(group: argparse._ArgumentGroup) -> None:
    default = Deployment()
    plugin = group.add_mutually_exclusive_group()
    plugin.add_argument("--plugin", type=Path, default=PLUGIN_LIBRARY,
                        help=f"library of the DeepstackAdd plugin (default: {PLUGIN_LIBRARY})")
    plugin.add_argument("--no-plugin", dest="plugin", action="store_const", const=None,
                        help="add visual rows by TensorRT's own operations: no library is needed, then or later")
    group.add_argument("--max-batch", type=int, help=f"requests in flight (default: {default.max_batch})")
    group.add_argument("--max-num-tokens", type=int,
                       help=f"tokens of all requests in one step (default: {default.max_num_tokens})")
    group.add_argument("--max-visual-tokens", type=int,
                       help=f"visual tokens of one request (default: {default.max_visual_tokens}, or --prompt-tokens)")
    group.add_argument("--prompt-tokens", type=int,
                       help="longest prompt (default: the limit in limits.json, or four fifths of the export's "
                            "--max-length)")
    group.add_argument("--context-logits", action="store_true",
                       help="let the engine give logits of every prompt token, for comparison with a reference")


def run(args: argparse.Namespace) -> int:
    tensorrt = TensorRTOptions(args.flavour, args.compute_capability, args.max_image_pixels, args.max_frames)
    trtllm = TrtllmBuildOptions(args.plugin, args.max_batch, args.max_num_tokens, args.max_visual_tokens,
                                args.prompt_tokens, args.context_logits)
    cuda = CudaBuildOptions(args.vision_kernels, args.decoder_kernels)
    build_engines(args.build, args.target, args.engine or ENGINES, tensorrt, trtllm, cuda)
    return 0
