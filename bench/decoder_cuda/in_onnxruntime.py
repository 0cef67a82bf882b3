"""The decoder in ONNX Runtime with the operators of plugins/decoder_kernels, beside the exported graph's own nodes.

    python -m bench.decoder_cuda.in_onnxruntime BUILD --operators libdecoder_operators.so --output out.json

BUILD holds an export in fp16 or bf16; its engines are not needed. Logits are compared before anything is timed. With
`--device cpu` and an export in fp32, the operators are their ONNX functions: that checks the graph, not the kernels.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from engines.onnxruntime.cuda_decoder_graph import use_decoder_kernels
from engines.onnxruntime.cuda_record import CHOSEN_BEFORE, DRAW_NUMBERS, DRAWS
from export.build_folder import BuildFolder
from export.graph import OPSET
from plugins.decoder_kernels.onnx_functions import decoder_functions
from qwen3vl.config import ModelConfig, TextConfig

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(bfloat16)": torch.bfloat16}
ONNX_TYPES = {torch.float32: 1, torch.int32: 6, torch.int64: 7, torch.float16: 10, torch.float64: 11,
              torch.bfloat16: 16}
LARGEST_ERROR = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of all logits together


class BoundDecoder:
    """A session whose inputs, outputs and cache are torch tensors of one device."""

    def __init__(self, session: onnxruntime.InferenceSession, text: TextConfig, device: str, slots: int, capacity: int):
        self.session, self.text, self.device = session, text, device
        types = {x.name: DTYPES.get(x.type) for x in session.get_inputs()}
        self.dtype, self.rows_dtype = types["past_key.0"], types["visual_rows"]
        self.draws = DRAWS in types
        shape = (slots, text.num_key_value_heads, capacity, text.head_dim)
        self.cache = {f"{part}.{layer}": torch.zeros(shape, dtype=self.dtype, device=device)
                      for layer in range(text.num_hidden_layers) for part in ("key", "value")}

    def bind(self, slots: slice, token_ids: torch.Tensor, position_ids: torch.Tensor,
             total_lengths: torch.Tensor) -> None:
        """Prepare a call for int32 [B, S], [3, B, S] and [B], which the caller may change between calls."""
        batch, count = token_ids.shape
        rows = torch.zeros((1, self.text.hidden_size), dtype=self.rows_dtype, device=self.device)
        longest = total_lengths.max().reshape(())
        wanted = torch.arange(batch * count, dtype=torch.int32, device=self.device)
        self.logits = torch.full((batch * count, self.text.vocab_size), torch.nan, device=self.device)
        inputs = {"token_ids": token_ids, "position_ids": position_ids, "total_lengths": total_lengths,
                  "max_total_length": longest, "logit_rows": wanted, "visual_rows": rows}
        if self.draws:
            inputs |= {CHOSEN_BEFORE: torch.zeros(1, dtype=torch.int64, device=self.device), DRAWS: torch.zeros(
                (batch * count, DRAW_NUMBERS), dtype=torch.float64, device=self.device)}
        parts = {name: tensor[slots] for name, tensor in self.cache.items()}
        self.bound, self.binding = (inputs, parts), self.session.io_binding()
        for name, tensor in inputs.items():
            self._bind(self.binding.bind_input, name, tensor)
        for name, tensor in parts.items():
            self._bind(self.binding.bind_input, f"past_{name}", tensor)
            self._bind(self.binding.bind_output, f"present_{name}", tensor)
        self._bind(self.binding.bind_output, "logits", self.logits)

    def run(self) -> torch.Tensor:
        self.session.run_with_iobinding(self.binding)
        return self.logits

    def _bind(self, bind, name: str, tensor: torch.Tensor) -> None:
        bind(name, self.device, 0, ONNX_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())


def load(graph: Path, device: str, operators: Path | None, options: dict[str, str]) -> onnxruntime.InferenceSession:
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    if operators is not None:
        session_options.register_custom_ops_library(str(operators))
    return onnxruntime.InferenceSession(graph, session_options, providers=[(PROVIDERS[device], options)])


def write_rewritten(source: Path, folder: Path, *, with_functions: bool) -> Path:
    model = ir.load(source)
    use_decoder_kernels(model)
    if with_functions:
        model.functions.update({function.identifier(): function for function in decoder_functions(OPSET)})
    ir.save(model, folder / "decoder.onnx", external_data="weights.bin")
    return folder / "decoder.onnx"


def chunks_and_steps(decoder: BoundDecoder, seed: int = 0) -> torch.Tensor:
    """Logits of two prompts of 37 tokens, each in two chunks, and of four steps of both."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(decoder.text.vocab_size, (2, 41), generator=generator, dtype=torch.int32).to(decoder.device)
    positions = torch.arange(41, dtype=torch.int32, device=decoder.device).expand(3, 2, 41)
    spans = [(slice(slot, slot + 1), slice(*span)) for slot in (0, 1) for span in ((0, 20), (20, 37))]
    spans += [(slice(0, 2), slice(i, i + 1)) for i in range(37, 41)]
    found = []
    for slots, span in spans:
        tokens = ids[slots, span].contiguous()
        total = torch.full((len(tokens),), span.stop, dtype=torch.int32, device=decoder.device)
        decoder.bind(slots, tokens, positions[:, slots, span].contiguous(), total)
        found.append(decoder.run().clone())
    return torch.cat(found)


def compare(expected: torch.Tensor, got: torch.Tensor) -> dict[str, float]:
    return {"relative_error": float((got - expected).norm() / expected.norm()),
            "same_best_token": float((got.argmax(-1) == expected.argmax(-1)).float().mean())}


def step_milliseconds(decoder: BoundDecoder, batch: int, past: int, repeats: int = 30) -> float:
    """Wall time of one step of `batch` sequences of `past` tokens: the median."""
    for tensor in decoder.cache.values():
        tensor.normal_()
    ids = torch.randint(decoder.text.vocab_size, (batch, 1), dtype=torch.int32, device=decoder.device)
    positions = torch.full((3, batch, 1), past, dtype=torch.int32, device=decoder.device)
    total = torch.full((batch,), past + 1, dtype=torch.int32, device=decoder.device)
    decoder.bind(slice(0, batch), ids, positions, total)
    times = []
    for repeat in range(repeats + 5):
        started = time.perf_counter()
        decoder.run()
        if decoder.device == "cuda":
            torch.cuda.synchronize()
        if repeat >= 5:
            times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="build folder with onnx/decoder.onnx")
    parser.add_argument("--operators", type=Path, help="libdecoder_operators.so; needed for a GPU")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="cuda", choices=tuple(PROVIDERS))
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32], help="batches to time")
    parser.add_argument("--past", type=int, default=1024, help="tokens in the cache before a timed step")
    parser.add_argument("--cuda-graph", action="store_true", help="capture each timed step into a CUDA graph")
    args = parser.parse_args(argv)
    text = ModelConfig.from_dict(BuildFolder(args.build).manifest["config"]).text
    source = args.build / "onnx/decoder.onnx"
    slots, capacity = max([2, *args.batches]), max(64, args.past + 16)
    torch.manual_seed(0)
    result = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(),
              "command": "python -m bench.decoder_cuda.in_onnxruntime " + " ".join(argv or sys.argv[1:]),
              "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None,
              "python": platform.python_version(), "onnxruntime": onnxruntime.__version__, "numpy": np.__version__,
              "layers": text.num_hidden_layers, "hidden": text.hidden_size, "step_ms": {}}
    with tempfile.TemporaryDirectory() as folder:
        rewritten = write_rewritten(source, Path(folder), with_functions=args.operators is None)
        sides = {"exported": (source, None), "operators": (rewritten, args.operators)}
        logits = {}
        for name, (graph, library) in sides.items():
            decoder = BoundDecoder(load(graph, args.device, library, {}), text, args.device, slots, capacity)
            logits[name] = chunks_and_steps(decoder)
        result["compared"] = compare(logits["exported"], logits["operators"])
        print(result["compared"], flush=True)
        options = {"enable_cuda_graph": "1"} if args.cuda_graph else {}
        for name, (graph, library) in sides.items():
            for batch in args.batches:  # a session has one CUDA graph
                decoder = BoundDecoder(load(graph, args.device, library, options), text, args.device, batch, capacity)
                milliseconds = step_milliseconds(decoder, batch, args.past)
                result["step_ms"][f"{name}, batch {batch}"] = milliseconds
                print(f"{name}, batch {batch}: {milliseconds:.3f} ms", flush=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    if not result["compared"]["relative_error"] < LARGEST_ERROR[decoder.dtype]:
        raise SystemExit("the operators' logits are not those of the exported graph")


if __name__ == "__main__":
    main()
