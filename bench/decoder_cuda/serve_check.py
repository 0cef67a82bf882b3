"""Does the decoder of `qwen3vl build --target cuda` work on this GPU, from the command to a streamed answer?

    python -m bench.decoder_cuda.serve_check WORK --decoder-kernels libdecoder_operators.so --output out.json

Makes a checkpoint of random weights with the shapes of Qwen3-VL-30B-A3B but few layers, builds it for the GPU, with
the kernels and with ONNX Runtime's own operators, and compares each with the project's torch modules in float32: logits
of prompts with images, whole and in chunks, of steps beside others, with CUDA graphs and without; answers of many
requests at once; then Triton serves it. What torch itself is off by in the engine's precision is the measure: three
times that is allowed. Each check stands alone: one that fails does not keep the others from running. What hangs is cut
after `--limit` seconds, and says where it was.

`--device cpu` goes the same way with the bundled model in float32 and the operators' ONNX functions, without Triton.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from bench.make_model import TEMPLATE, make_wide_model
from client import VisionChat
from engines.batching.batcher import Batcher
from engines.batching.prefill import PrefillSettings
from engines.batching.request import GenerationRequest
from engines.builder import build_engines
from engines.description import EngineDescription
from engines.fidelity.cases import Case, make_cases, picture
from engines.onnxruntime.cuda_build import CudaBuildOptions
from engines.onnxruntime.cuda_decoder import CudaDecoder
from engines.onnxruntime.cuda_decoder_build import write_cuda_decoder
from engines.onnxruntime.session import ENGINE_FILE
from export.exporter import export
from export.graph import OPSET
from plugins.decoder_kernels.onnx_functions import decoder_functions
from qwen3vl.limits import Limits
from qwen3vl.processor import Processor
from qwen3vl.sampling import SamplingParams
from qwen3vl.torch_decoder import KeyValueCache
from qwen3vl.torch_model import TorchModel
from triton_repo.compose import compose
from triton_repo.repository import Options
from triton_repo.server import TritonServer

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ALLOWED_NOISE, LEAST_NOISE = 3, 1e-4
SLOTS, STEPS, ANSWER, CHUNK = 12, 6, 24, 48
LIMITS = Limits(prompt_tokens=2048, total_tokens=3072)


@dataclass(frozen=True)
class Prompt:
    """A request, its rows, and what torch says of it: logits of its tokens and of `STEPS` given ones behind it.

    Attributes:
        logits: float32 [S + STEPS, V].
        noise: by how much torch in the engine's precision is off, as `relative` says.
    """

    request: GenerationRequest
    logits: np.ndarray
    noise: float


class Reference:
    """The torch modules in float32 and in the engine's precision."""

    def __init__(self, checkpoint: Path, precision: str, device: str):
        self.device = device
        self.exact = TorchModel.from_checkpoint(checkpoint).to(device)
        self.rounded = TorchModel.from_checkpoint(checkpoint, DTYPES[precision]).to(device)

    @torch.inference_mode()
    def prompt(self, case: Case) -> Prompt:
        inputs = case.inputs
        rows = self.exact.visual_rows(inputs.patches, inputs.grids)
        ids = np.concatenate([inputs.token_ids, STEP_TOKENS])
        behind = np.arange(len(inputs.token_ids), len(ids)) + inputs.rope_delta
        positions = np.concatenate([inputs.position_ids, np.tile(behind, (3, 1))], 1)
        exact, rounded = (self._logits(model, ids, positions, rows) for model in (self.exact, self.rounded))
        request = GenerationRequest(inputs.token_ids, inputs.position_ids, inputs.rope_delta, rows.cpu().numpy(),
                                    SamplingParams(max_tokens=ANSWER))
        return Prompt(request, exact, max(LEAST_NOISE, relative(rounded, exact)))

    @torch.inference_mode()
    def answer_logits(self, prompt: Prompt, answer: list[int]) -> np.ndarray:
        """Float32 logits [len(answer), V] that each token of an answer was chosen from."""
        request, length = prompt.request, len(prompt.request.token_ids)
        ids = np.concatenate([request.token_ids, np.array(answer, np.int32)])
        behind = np.arange(length, len(ids)) + request.rope_delta
        positions = np.concatenate([request.position_ids, np.tile(behind, (3, 1))], 1)
        rows = torch.from_numpy(request.visual_rows).to(self.device)
        return self._logits(self.exact, ids, positions, rows)[length - 1 : -1]

    def _logits(self, model: TorchModel, ids: np.ndarray, positions: np.ndarray, rows: torch.Tensor) -> np.ndarray:
        tokens = torch.from_numpy(ids).long()[None].to(self.device)
        places = torch.from_numpy(positions).long()[:, None].to(self.device)
        dtype = model.decoder.lm_head.weight.dtype
        return model.decoder(tokens, rows.to(dtype), places, KeyValueCache())[0].float().cpu().numpy()


STEP_TOKENS = np.arange(40, 40 + STEPS, dtype=np.int32)


def relative(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


def prefill(decoder: CudaDecoder, slot: int, request: GenerationRequest, chunk: int) -> np.ndarray:
    found, length = [], len(request.token_ids)
    for start in range(0, length, chunk):
        part = slice(start, min(start + chunk, length))
        found.append(decoder.prefill(slot, request.token_ids[part], request.position_ids[:, part], request.visual_rows,
                                     start, np.arange(part.stop - start, dtype=np.int32)))
    return np.concatenate(found)


class Checks:
    """The checks of one engine.

    Args:
        engines: the `engines/` folder.
    """

    def __init__(self, engines: Path, device: str, reference: Reference, prompts: list[Prompt]):
        self._engines, self._device, self._reference, self._prompts = engines, device, reference, prompts

    def logits(self, chunk: int, graphs: bool) -> str:
        """Prompts in the last slots are moved to the first ones; half a prompt stays behind them meanwhile."""
        decoder = CudaDecoder(self._engines, SLOTS, LIMITS.total_tokens, self._device, graphs=graphs)
        require(decoder.has_graphs == (graphs and self._device == "cuda"), "steps are not captured")
        found: list[list[np.ndarray]] = []
        for slot, prompt in enumerate(self._prompts):
            found.append([prefill(decoder, SLOTS - 1, prompt.request, chunk)])
            decoder.move_slot(SLOTS - 1, slot, len(prompt.request.token_ids))
        first = self._prompts[0].request
        half, count = len(first.token_ids) // 2, len(self._prompts)
        half_prompt = [first.token_ids[:half], first.position_ids[:, :half], first.visual_rows, 0]
        rest = [first.token_ids[half:], first.position_ids[:, half:], first.visual_rows, half]
        beside = [decoder.prefill(count, *half_prompt, np.arange(half, dtype=np.int32))]
        lengths = np.array([len(prompt.request.token_ids) for prompt in self._prompts], np.int32)
        deltas = np.array([prompt.request.rope_delta for prompt in self._prompts], np.int32)
        for step in range(STEPS):
            logits = decoder.decode(np.full(count, STEP_TOKENS[step]), lengths + step + deltas, lengths + step + 1)
            for slot, row in enumerate(logits):
                found[slot].append(row[None].copy())
        beside.append(decoder.prefill(count, *rest, np.arange(len(rest[0]), dtype=np.int32)))
        errors = [(relative(np.concatenate(rows), prompt.logits), prompt.noise)
                  for rows, prompt in zip(found, self._prompts, strict=True)]
        errors.append((relative(np.concatenate(beside), self._prompts[0].logits[: len(first.token_ids)]),
                       self._prompts[0].noise))
        worst, noise = max(errors, key=lambda pair: pair[0] / pair[1])
        require(worst <= ALLOWED_NOISE * noise, f"off by {worst:.2e}, torch by {noise:.2e}")
        return f"off by {worst:.1e}, torch in this precision by {noise:.1e}"

    def times(self) -> str:
        """Wall time of steps, greedy choice included, beside a cache of 1000 tokens each: medians."""
        decoder, found = CudaDecoder(self._engines, SLOTS, LIMITS.total_tokens, self._device), []
        for count in (1, 4, 8, SLOTS):
            seconds, lengths = [], np.full(count, 1001, np.int32)
            for _ in range(20):
                began = time.perf_counter()
                rows = decoder.decode_rows(np.arange(count, dtype=np.int32), lengths - 1, lengths)
                for row in rows:
                    row.best(1) or row.all().argmax()
                seconds.append(time.perf_counter() - began)
            found.append(f"{count}: {np.median(seconds) * 1e3:.2f} ms")
        return f"steps of {decoder.config.text.num_hidden_layers} layers: {', '.join(found)}"

    def answers(self) -> str:
        """Many requests at once; each token must be among the best of torch in float32, as near as it is itself."""
        batcher = Batcher(self._engines, LIMITS, SLOTS, PrefillSettings(max_tokens=64), device=self._device)
        try:
            answers = ask_all(batcher, [prompt.request for prompt in self._prompts * 3])
        finally:
            batcher.close()
        worst = 0.0
        for prompt, answer in zip(self._prompts * 3, answers, strict=True):
            require(bool(answer), "an answer has no tokens")
            logits = self._reference.answer_logits(prompt, answer)
            behind = logits.max(-1) - logits[np.arange(len(answer)), answer]
            noise = prompt.noise * float(np.sqrt((logits**2).mean()))
            worst = max(worst, float(behind.max()) / noise)
        # Logits are off by a few standard deviations at most among so many.
        require(worst <= 8 * ALLOWED_NOISE, f"a token was {worst:.1f} times torch's noise behind the best one")
        return f"{len(answers)} answers; the worst token was {worst:.1f} times torch's noise behind the best one"


def ask_all(batcher: Batcher, requests: list[GenerationRequest]) -> list[list[int]]:
    outputs, done = [[] for _ in requests], threading.Semaphore(0)

    def collector(found: list) -> Callable:
        def collect(output) -> None:
            found.append(output)
            if isinstance(output, Exception) or output.finish_reason:
                done.release()
        return collect

    for request, found in zip(requests, outputs, strict=True):
        batcher.submit(request, collector(found))
    for _ in requests:
        done.acquire()
    for found in outputs:
        if isinstance(found[-1], Exception):
            raise found[-1]
    return [[token for output in found for token in output.token_ids.tolist()] for found in outputs]


def through_triton(build: Path) -> str:
    build_engines(build, "cuda", ["vision_encoder"])
    compose(build, Options(slots=SLOTS), {"total_tokens": LIMITS.total_tokens, "prompt_tokens": LIMITS.prompt_tokens})
    with TritonServer(build, log=build / "tritonserver.log") as server:
        began = time.monotonic()
        server.wait_ready(120)
        ready, chat = time.monotonic() - began, VisionChat(f"127.0.0.1:{server.endpoints.grpc}", timeout=60)
        with chat.stream("What is in the picture?", images=[picture(320, 224, 1)], max_tokens=ANSWER) as deltas:
            texts = [delta.text for delta in deltas]
    require(sum(map(bool, texts)) > 1, f"the answer came in {len(texts)} pieces, expected several")
    return f"ready after {ready:.1f} s, {len(texts)} pieces of text"


def require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


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
    parser.add_argument("--precision", choices=("fp16", "bf16"), default="bf16")
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
    sides = {"own operators": False}
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
