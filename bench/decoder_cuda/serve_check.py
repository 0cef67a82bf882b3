"""Does the decoder of `qwen3vl build --target cuda` work on this GPU, from the command to a streamed answer?

    python -m bench.decoder_cuda.serve_check WORK --decoder-kernels libdecoder_operators.so --output out.json

Makes a checkpoint of random weights with the shapes of Qwen3-VL-30B-A3B but few layers, builds it for the GPU, with
the kernels and with ONNX Runtime's own operators, and compares each with the project's torch modules in float32: logits
of prompts with images, whole and in chunks, of steps beside others, with CUDA graphs and without; answers of many
requests at once; then Triton serves it. What torch itself is off by in the engine's precision is the measure: three
times that is allowed. Steps that run ahead have to choose the tokens of steps that do not. Each check stands alone: one
that fails does not keep the others from running. What hangs is cut after `--limit` seconds, and says where it was.

`--device cpu` goes the same way with the bundled model in float32 and the operators' ONNX functions, without Triton.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import torch

from bench.decoder_cuda.serve_checks import LIMITS, SLOTS, Checks, require
from bench.decoder_cuda.serve_reference import ANSWER, Reference
from bench.make_model import TEMPLATE, make_wide_model
from client import VisionChat
from engines.builder import build_engines
from engines.description import EngineDescription
from engines.fidelity.cases import make_cases, picture
from engines.onnxruntime.cuda_build import CudaBuildOptions
from engines.onnxruntime.cuda_decoder_build import write_cuda_decoder
from engines.onnxruntime.session import ENGINE_FILE
from export.exporter import export
from export.graph import OPSET
from export.precision import MIXED
from plugins.decoder_kernels.onnx_functions import decoder_functions
from qwen3vl.processor import Processor
from triton_repo.compose import compose
from triton_repo.endpoints import Endpoints
from triton_repo.repository import Options
from triton_repo.server import TritonServer

CHUNK = 48


def through_triton(build: Path) -> str:
    build_engines(build, "cuda", ["vision_encoder"])
    compose(build, Options(slots=SLOTS), {"total_tokens": LIMITS.total_tokens, "prompt_tokens": LIMITS.prompt_tokens})
    free_ports = Endpoints(http=0, grpc=0, metrics=0)
    with TritonServer(build, endpoints=free_ports, log=build / "tritonserver.log") as server:
        began = time.monotonic()
        server.wait_ready(120)
        ready, chat = time.monotonic() - began, VisionChat(f"127.0.0.1:{server.endpoints.grpc}", timeout=60)
        with chat.stream("What is in the picture?", images=[picture(320, 224, 1)], max_tokens=ANSWER) as deltas:
            texts = [delta.text for delta in deltas]
    require(sum(map(bool, texts)) > 1, f"the answer came in {len(texts)} pieces, expected several")
    return f"ready after {ready:.1f} s, {len(texts)} pieces of text"


def build_engine(build: Path, device: str, kernels: Path | None, with_kernels: bool) -> Path:
    """Make the decoder's engine, with the kernels or without. Returns `engines/`."""
    if device == "cuda":
        options = CudaBuildOptions(decoder_kernels=kernels if with_kernels else None)
        build_engines(build, "cuda", ["decoder"], cuda=options)
        return build / "engines"
    build_engines(build, "cpu", ["vision_encoder"])
    folder = build / f"engines{'-kernels' if with_kernels else ''}"
    (folder / "decoder").mkdir(parents=True, exist_ok=True)
    description = EngineDescription.load(build / "engines")
    description.save(folder / "engine.json")
    write_cuda_decoder(build / "onnx/decoder.onnx", folder / "decoder", description.config, kernels=with_kernels)
    if with_kernels:
        model = ir.load(folder / "decoder" / ENGINE_FILE)
        model.functions.update({function.identifier(): function for function in decoder_functions(OPSET)})
        ir.save(model, folder / "decoder" / ENGINE_FILE)
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for checkpoint and build")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--decoder-kernels", type=Path,
                        help="libdecoder_operators.so (default: ONNX Runtime's own)")
    parser.add_argument("--precision", choices=("fp16", "bf16", *MIXED), default="bf16",
                        help="weights of 4 bits need --decoder-kernels (default: bf16)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for everything")
    args = parser.parse_args(argv)
    faulthandler.dump_traceback_later(args.limit, exit=True, file=sys.__stderr__)
    results: dict[str, dict] = {}

    def check(name: str, run: Callable[[], object]) -> object:
        began, found, passed = time.monotonic(), None, True
        try:
            found = run()
        except Exception as error:
            traceback.print_exc()
            found, passed = f"{type(error).__name__}: {error}", False
        seconds = time.monotonic() - began
        text = found if isinstance(found, str) else ""
        results[name] = {"passed": passed, "seconds": round(seconds, 2), "found": text}
        print(f"{'ok  ' if passed else 'FAIL'} {name} ({seconds:.1f} s) {text}", flush=True)
        return found if passed else None

    on_gpu = args.device == "cuda"
    precision = args.precision if on_gpu else "fp32"
    checkpoint, build = args.work / "checkpoint" if on_gpu else TEMPLATE, args.work / "build"
    if on_gpu:
        check("checkpoint", lambda: make_wide_model(checkpoint, args.layers))
    check("export", lambda: export(checkpoint, build, precision) and None)
    reference = Reference(checkpoint, precision, args.device)
    prompts = [reference.prompt(case) for case in make_cases(Processor.from_checkpoint(build / "processor", LIMITS))]
    # ONNX Runtime's own operators for a GPU do not read the experts of a quantised export.
    sides = {"own operators": False} if precision not in MIXED else {}
    if args.decoder_kernels is not None or not on_gpu:
        sides["kernels"] = True
    for side, with_kernels in sides.items():
        engines = check(f"{side}: build", lambda kernels=with_kernels: build_engine(
            build, args.device, args.decoder_kernels, kernels))
        if engines is None:
            continue
        checks = Checks(engines, args.device, reference, prompts)
        check(f"{side}: whole prompts, steps without graphs", lambda checks=checks: checks.logits(4096, False))
        check(f"{side}: chunks of {CHUNK}, steps as graphs", lambda checks=checks: checks.logits(CHUNK, True))
        check(f"{side}: answers", lambda checks=checks: checks.answers())
        if with_kernels:
            check(f"{side}: steps ahead", lambda checks=checks: checks.ahead())
        check(f"{side}: time of steps", lambda checks=checks: checks.times())
        if on_gpu:
            check(f"{side}: through Triton", lambda: through_triton(build))
    args.output.write_text(json.dumps({
        "command": "python -m bench.decoder_cuda.serve_check " + " ".join(argv or sys.argv[1:]),
        "gpu": torch.cuda.get_device_name() if on_gpu else None, "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__, "precision": precision, "checks": results}, indent=1) + "\n")
    faulthandler.cancel_dump_traceback_later()
    failed = [name for name, result in results.items() if not result["passed"]]
    print(f"{len(results) - len(failed)} of {len(results)} checks passed" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
