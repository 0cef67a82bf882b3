"""`qwen3vl compose`: the model repository of a build folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from triton_repo.compose import compose
from triton_repo.device_rows import PLACES
from triton_repo.handoff.transports import CHOICES
from triton_repo.repository import Options
from triton_repo.roles import Role

HELP = "write the Triton model repository of a build"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Options()
    parser.add_argument("build", type=Path, help="a folder with engines, written by `qwen3vl build`")
    parser.add_argument("--role", type=Role, choices=list(Role), default=Role.BOTH,
                        help="what the server is to do: vision encoding, all but that, or both (default: both)")
    parser.add_argument("--slots", type=int, default=defaults.slots,
                        help=f"requests that the decoder serves at the same time (default: {defaults.slots})")
    parser.add_argument("--threads", type=int, default=defaults.threads,
                        help="compute threads of each engine (default: one for each core)")
    parser.add_argument("--stall-ms", type=int, default=defaults.stall_ms, metavar="MS",
                        help="time between two tokens of a running answer while prompts are processed, as far as the "
                             f"machine allows it (default: {defaults.stall_ms}); more of it means shorter waits for "
                             "the first token")
    parser.add_argument("--preprocess-instances", type=int, default=defaults.preprocess_instances,
                        help=f"processes that prepare requests (default: {defaults.preprocess_instances})")
    parser.add_argument("--whole-instances", type=int, default=defaults.whole_instances,
                        help=f"whole answers over `infer` at the same time (default: {defaults.whole_instances})")
    cuda = parser.add_argument_group("target cuda")
    cuda.add_argument("--visual-rows", choices=PLACES, default=defaults.visual_rows,
                      help="where visual rows are passed on to the decoder, the GPU's memory or the host's "
                           f"(default: {defaults.visual_rows})")
    trtllm = parser.add_argument_group("target trtllm")
    trtllm.add_argument("--cache-percent", type=int, default=defaults.cache_percent, metavar="PERCENT",
                        help="share of a GPU's free memory for keys and values; the vision encoder is loaded later, "
                             f"into the rest (default: {defaults.cache_percent})")
    language = parser.add_argument_group("role language")
    language.add_argument("--row-cache-mib", type=int, default=defaults.row_cache_mib, metavar="MIB",
                          help="memory for visual rows of images that come again, 0 for none "
                               f"(default: {defaults.row_cache_mib})")
    language.add_argument("--encode-seconds", type=int, default=defaults.encode_seconds, metavar="SECONDS",
                          help="how long an image may take to become visual rows, waiting for an encode server "
                               f"included (default: {defaults.encode_seconds})")
    language.add_argument("--transport", choices=CHOICES, default=defaults.transport,
                          help="how visual rows move; auto is through shared memory on one machine, else by gRPC "
                               f"(default: {defaults.transport})")
    parser.add_argument("--limit", action="append", type=_limit, default=[], metavar="NAME=VALUE",
                        help="change a limit in limits.json, e.g. prompt_tokens=4096; may be given several times")


def run(args: argparse.Namespace) -> int:
    options = Options(args.slots, args.threads, args.stall_ms, args.preprocess_instances, args.whole_instances,
                      args.row_cache_mib, args.encode_seconds, args.transport, args.cache_percent, args.visual_rows)
    compose(args.build, options, dict(args.limit), args.role)
    return 0


def _limit(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    try:
        return name, int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with a whole number, such as "
                                         "prompt_tokens=4096") from None
