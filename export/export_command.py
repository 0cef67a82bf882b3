"""`qwen3vl export`: a checkpoint to portable artifacts."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.exporter import export
from export.precision import MIXED, PRECISIONS, QUANTISED
from export.trtllm.exporter import export_trtllm
from export.trtllm.options import DTYPES, WEIGHT_ONLY, TrtllmOptions
from export.trtllm.parallel import Parallelism
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits

HELP = "export a checkpoint to ONNX graphs with streamed weights, or to a TensorRT-LLM checkpoint"
ONNX_OPTIONS = ("precision",)
TRTLLM_OPTIONS = ("dtype", "tp", "pp", "ep", "max_length", "weight_only")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a Hugging Face checkpoint folder of Qwen3-VL-MoE")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the build folder to write")
    parser.add_argument("--format", choices=("onnx", "trtllm"), default="onnx",
                        help="ONNX graphs of both halves, or the vision encoder's graph and a TensorRT-LLM 1.2.1 "
                             "checkpoint of the decoder (default: onnx)")
    parser.add_argument("--precision", choices=[*PRECISIONS, *QUANTISED, *MIXED],
                        help="format onnx: element type of weights and activations, or integers for the decoder's "
                             "weights and for all else float32, or the type named (default: fp32)")
    add_trtllm_arguments(parser.add_argument_group("format trtllm"))


def add_trtllm_arguments(group: argparse._ArgumentGroup) -> None:
    """The options of `TrtllmOptions`; those not given stay None."""
    group.add_argument("--dtype", choices=list(DTYPES),
                       help=f"type of weights and activations (default: {TrtllmOptions().dtype})")
    group.add_argument("--tp", type=int, help="GPUs that share each layer (default: 1)")
    group.add_argument("--pp", type=int, help="pipeline stages (default: 1)")
    group.add_argument("--ep", type=int, help="groups of experts among the --tp GPUs of a stage (default: 1)")
    group.add_argument("--max-length", type=int,
                       help="longest sequence, prompt and answer, in tokens "
                            f"(default: {Limits().total_tokens}, or the model's length)")
    group.add_argument("--weight-only", choices=list(WEIGHT_ONLY),
                       help="let TensorRT-LLM quantise the weights when it builds the engine (default: no)")


def run(args: argparse.Namespace) -> int:
    unused = ONNX_OPTIONS if args.format == "trtllm" else TRTLLM_OPTIONS
    for name in unused:
        if getattr(args, name) is not None:
            raise ArtifactError(f"--{name.replace('_', '-')} is {getattr(args, name)}, but --format {args.format} has "
                                "no such option")
    if args.format == "trtllm":
        export_trtllm(args.checkpoint, args.output, trtllm_options(args))
    else:
        export(args.checkpoint, args.output, args.precision or "fp32")
    return 0


def trtllm_options(args: argparse.Namespace) -> TrtllmOptions:
    """Options from the arguments of `add_trtllm_arguments`."""
    def given(*names: str) -> dict:
        return {name: getattr(args, name) for name in names if getattr(args, name) is not None}

    return TrtllmOptions(Parallelism(**given("tp", "pp", "ep")), **given("dtype", "max_length", "weight_only"))
