"""`qwen3vl plan`: the GPU memory of a deployment, before anything is downloaded or rented."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from export.trtllm.options import DTYPES, WEIGHT_ONLY, TrtllmOptions
from export.trtllm.parallel import Parallelism
from export.trtllm.plan import GIB, Deployment, MemoryPlan, choose_parallelism, plan
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits

HELP = "show the GPU memory that a deployment needs; reads config.json only"
# Of 10^9 bytes, as vendors count.
GPU_SIZES = (24, 48, 80, 141, 192)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Deployment()
    parser.add_argument("checkpoint", type=Path, help="a folder with config.json of Qwen3-VL-MoE; no weights needed")
    parser.add_argument("--target", choices=("trtllm",), default="trtllm", help="what serves (default: trtllm)")
    parser.add_argument("--gpus", type=_numbers, default=(1, 2, 4, 8), help="numbers of GPUs (default: 1,2,4,8)")
    parser.add_argument("--gpu-memory", type=_numbers, default=GPU_SIZES,
                        help=f"sizes of one GPU in GB (default: {','.join(map(str, GPU_SIZES))})")
    for name in ("tp", "pp", "ep"):
        parser.add_argument(f"--{name}", type=int, help="as in `export`, for one number of GPUs, tp * pp; without "
                                                        "--tp, --pp and --ep the division is chosen")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16", help="type of weights and activations")
    parser.add_argument("--weight-only", choices=list(WEIGHT_ONLY), help="weights quantised as in `export`")
    parser.add_argument("--max-batch", type=int, default=default.max_batch,
                        help=f"requests in flight (default: {default.max_batch})")
    parser.add_argument("--max-length", type=int, help="longest sequence, prompt and answer, in tokens (default: "
                                                       f"{Limits().total_tokens}, or the model's length)")
    parser.add_argument("--max-visual-tokens", type=int, default=default.max_visual_tokens,
                        help=f"visual tokens of one request (default: {default.max_visual_tokens})")
    parser.add_argument("--max-num-tokens", type=int, default=default.max_num_tokens,
                        help=f"tokens of all requests in one step (default: {default.max_num_tokens})")


def run(args: argparse.Namespace) -> int:
    config = ModelConfig.from_checkpoint(args.checkpoint)
    options = TrtllmOptions(dtype=args.dtype, max_length=args.max_length, weight_only=args.weight_only)
    deployment = Deployment(args.max_batch, args.max_visual_tokens, args.max_num_tokens)
    plans, refused = [], []
    for parallelism in _divisions(config, args, refused):
        plans.append(plan(config, replace(options, parallelism=parallelism), deployment))
    if not plans:
        raise ArtifactError("; ".join(refused))
    print(report(plans, args.gpu_memory, args.max_batch, options.length(config)))
    for reason in refused:
        print(f"left out: {reason}")
    return 0


def report(plans: Sequence[MemoryPlan], gpu_sizes: Sequence[int], max_batch: int, max_length: int) -> str:
    """A table with one line for each plan; memory in GiB on the fullest GPU."""
    header = ["GPUs", "tp", "pp", "ep", "weights", "vision", "prompt tables", "M-RoPE", "activations", "in all",
              "cache/token", *(f"{size} GB" for size in gpu_sizes)]
    rows = [header]
    for item in plans:
        division, parts = item.parallelism, (item.weights, item.vision_encoder, item.prompt_tables, item.mrope_tables,
                                             item.activations, item.without_cache)
        rows.append([str(n) for n in (division.world_size, division.tp, division.pp, division.ep)]
                    + [f"{part / GIB:.2f}" for part in parts] + [f"{item.cache_per_token / 1024:.1f} KiB"]
                    + [_capacity(item.cached_tokens(size * 1e9), max_batch, max_length) for size in gpu_sizes])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([
        *lines, "", "GiB on the fullest GPU; under each GPU size: tokens that its key-value cache holds, with * where "
        f"{max_batch} sequences of {max_length} tokens fit at once, - where not even one does."])


def _capacity(tokens: int, max_batch: int, max_length: int) -> str:
    if tokens < max_length:
        return "-"
    return f"{tokens // 1000}k" + ("*" if tokens >= max_batch * max_length else "")


def _divisions(config: ModelConfig, args: argparse.Namespace, refused: list[str]) -> list[Parallelism]:
    if any(getattr(args, name) is not None for name in ("tp", "pp", "ep")):
        return [Parallelism(args.tp or 1, args.pp or 1, args.ep or 1)]
    found = []
    for gpus in args.gpus:
        try:
            found.append(choose_parallelism(config, gpus))
        except ArtifactError as error:
            refused.append(str(error))
    return found


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers above 0, separated by commas")
    return numbers
