"""Speed of the vision encoder at the shapes of Qwen3-VL-30B-A3B: ONNX Runtime CUDA beside `transformers` and the floor.

    python -m bench.vision_encoder.run --output bench/results/vision_encoder_h200.json

Needs a CUDA GPU, torch, transformers and onnxruntime-gpu. Weights are made up, and the same on every side; every
engine's visual rows are compared with those of `transformers` in float32. Each time is the median of the wall times of
single calls, inputs and outputs on the GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
import transformers
from safetensors import safe_open
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeVisionModel

from bench.synthetic_checkpoint import config_30b_a3b, write_checkpoint
from bench.vision_encoder.variants import VARIANTS
from export.build_folder import BuildFolder
from export.exporter import PRECISIONS
from export.vision_encoder_graph import vision_encoder_model
from export.weight_files import write_model
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig, VisionConfig
from qwen3vl.positions import interpolation, vision_positions

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
WARMUP, REPEATS = 3, 10


@dataclass(frozen=True)
class Call:
    """`frames` images of one size."""

    name: str
    frames: int
    grid: tuple[int, int]

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


CALLS = (Call("448x448", 1, (28, 28)), Call("1280x720", 1, (44, 80)), Call("1920x1080", 1, (68, 120)),
         Call("8 of 448x448", 8, (28, 28)))


def operations(vision: VisionConfig, call: Call) -> dict[str, float]:
    """Multiplications and additions of one call, in attention and in all."""
    tokens, size = call.frames * call.patches, vision.hidden_size
    attention = 4.0 * vision.depth * call.frames * call.patches**2 * size
    block = 2.0 * tokens * (4 * size**2 + 2 * size * vision.intermediate_size)
    merger = 2.0 * tokens / vision.merge_unit * vision.merged_size * (vision.merged_size + vision.out_hidden_size)
    embedding = 2.0 * tokens * vision.patch_dim * size
    return {"attention": attention, "all": attention + vision.depth * block + embedding
            + (1 + vision.deepstack_levels) * merger}


def median_ms(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall time of a call that has ended on the GPU."""
    for _ in range(WARMUP):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of an 8192 x 8192 x 8192 product of random values."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * 8192**3 / (median_ms(lambda: a @ b) / 1e3)


def attention_times() -> dict[str, float]:
    """Torch's attention alone, one layer of one 1920x1080 image, by backend and head size (72 is the model's)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    times = {}
    for head in (72, 80, 96, 128):
        q, k, v = (torch.randn(1, 16, 8160, head, device="cuda", dtype=torch.float16) for _ in range(3))
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            try:
                with sdpa_kernel(backend):
                    times[f"{backend.name} {head}"] = median_ms(
                        lambda q=q, k=k, v=v: torch.nn.functional.scaled_dot_product_attention(q, k, v))
            except RuntimeError as error:
                times[f"{backend.name} {head}"] = str(error)[:120]
    return times


class Inputs:
    """One call's inputs, on the GPU, for both sides."""

    def __init__(self, vision: VisionConfig, call: Call):
        random = np.random.default_rng(call.patches)
        shape = (call.frames, call.patches, vision.patch_dim)
        indices, weights = interpolation(*call.grid, vision.grid_side, vision.spatial_merge_size)
        arrays = {"patches": random.integers(0, 256, shape, dtype=np.uint8),
                  "patch_positions": vision_positions(*call.grid, vision.spatial_merge_size),
                  "interp_indices": indices, "interp_weights": weights}
        self.tensors = {name: torch.from_numpy(array).cuda() for name, array in arrays.items()}
        self.pixels = self.tensors["patches"].flatten(0, 1).float() / 127.5 - 1
        self.grids = torch.tensor([[1, *call.grid]] * call.frames, device="cuda")


class Reference:
    """The vision encoder of `transformers`."""

    def __init__(self, checkpoint: Path, config, dtype: torch.dtype, implementation: str = "sdpa"):
        self.dtype = dtype
        self.model = Qwen3VLMoeVisionModel._from_config(config.vision_config, attn_implementation=implementation,
                                                        dtype=dtype).cuda().eval()
        with safe_open(checkpoint / "model.safetensors", "pt", device="cuda") as file:
            prefix = "model.visual."
            self.model.load_state_dict({name.removeprefix(prefix): file.get_tensor(name).to(dtype)
                                        for name in file.keys() if name.startswith(prefix)})  # noqa: SIM118

    @torch.no_grad()
    def rows(self, inputs: Inputs) -> torch.Tensor:
        result = self.model(inputs.pixels.to(self.dtype), inputs.grids)
        return torch.stack([result.pooler_output, *result.deepstack_features], dim=1).flatten(0, 1)

    def compile_blocks(self) -> None:
        for block in self.model.blocks:
            block.compile(dynamic=False)


class Engine:
    """ONNX Runtime CUDA with a variant of the exported graph."""

    def __init__(self, graph: Path, precision: str, variant: str):
        rewrite, options = VARIANTS[variant]
        model = ir.load(graph)
        rewrite(model, PRECISIONS[precision])
        path = graph.with_name(f"{variant.replace(' ', '-')}.onnx")
        ir.save(model, path)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        stream = {"user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}
        self.session = onnxruntime.InferenceSession(path, settings,
                                                    providers=[("CUDAExecutionProvider", {**stream, **options})])

    def bind(self, inputs: Inputs, rows: torch.Tensor) -> None:
        """Take inputs from there and write into `rows`; both are kept, for the binding does not own them."""
        self.binding, self.bound = self.session.io_binding(), (inputs, rows)
        for name, tensor in inputs.tensors.items():
            dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
            self.binding.bind_input(name, "cuda", 0, dtype, tuple(tensor.shape), tensor.data_ptr())
        self.binding.bind_output("visual_rows", "cuda", 0, np.float32, tuple(rows.shape), rows.data_ptr())

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)


def kernels(run: Callable[[], object], limit: int = 14) -> list[dict]:
    """The kernels that take most of the time of one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.device_time_total)
    return [{"kernel": event.key[:100], "count": event.count, "ms": round(event.device_time_total / 1e3, 3)}
            for event in events[:limit]]


def cosine(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(actual.float(), expected.float()).min().item()


class Benchmark:
    def __init__(self, scratch: Path, output: Path, deadline: float):
        self.output, self.deadline = output, deadline
        config = config_30b_a3b(layers=3)
        config.text_config.num_experts = 8
        self.config, self.checkpoint, self.scratch = config, scratch / "checkpoint", scratch
        write_checkpoint(self.checkpoint, config, seed=0)
        self.vision = ModelConfig.from_checkpoint(self.checkpoint).vision
        self.inputs = {call.name: Inputs(self.vision, call) for call in CALLS}
        properties = torch.cuda.get_device_properties(0)
        self.report = {
            "gpu": properties.name, "torch": torch.__version__, "transformers": transformers.__version__,
            "onnxruntime": onnxruntime.__version__, "operations": {c.name: operations(self.vision, c) for c in CALLS},
            "matrix_rate": {name: matrix_rate(dtype) for name, dtype in TORCH.items()},
            "attention_ms": attention_times(), "results": []}
        self.save()

    def save(self) -> None:
        self.output.write_text(json.dumps(self.report, indent=1) + "\n")

    def add(self, **result) -> None:
        self.report["results"].append(result)
        shown = {name: value for name, value in result.items() if name != "kernels"}
        print(f"{time.monotonic() - self.started:6.1f} s  {json.dumps(shown)}", flush=True)
        self.save()

    def run(self, started: float) -> None:
        self.started = started
        reference = Reference(self.checkpoint, self.config, torch.float32)
        self.expected = {name: reference.rows(inputs) for name, inputs in self.inputs.items()}
        del reference
        for precision in TORCH:
            graph = self.export(precision)
            for variant in VARIANTS:
                self.engine(graph, precision, variant)
            self.transformers(precision)

    def export(self, precision: str) -> Path:
        build = BuildFolder(self.scratch / precision)
        with build.locked(), Checkpoint.open(self.checkpoint) as opened:
            model = vision_encoder_model(self.vision, opened, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                                         dtype=PRECISIONS[precision])
            write_model(build, "onnx/vision_encoder.onnx", *model, {})
        return build.path / "onnx/vision_encoder.onnx"

    def engine(self, graph: Path, precision: str, variant: str) -> None:
        if time.monotonic() - self.started > self.deadline:
            return self.add(side=variant, precision=precision, skipped="out of time")
        try:
            engine, times, similarity = Engine(graph, precision, variant), {}, {}
            for name, inputs in self.inputs.items():
                rows = torch.full_like(self.expected[name], float("nan"))
                engine.bind(inputs, rows)
                engine.run()
                torch.cuda.synchronize()
                similarity[name] = round(cosine(rows, self.expected[name]), 6)
                times[name] = round(median_ms(engine.run), 3)
            engine.bind(self.inputs["1920x1080"], torch.empty_like(self.expected["1920x1080"]))
            self.add(side=variant, precision=precision, ms=times, cosine=similarity, kernels=kernels(engine.run))
        except Exception as error:
            self.add(side=variant, precision=precision, failed=str(error)[:300])

    def transformers(self, precision: str) -> None:
        for side in ("transformers eager", "transformers compiled"):
            if time.monotonic() - self.started > self.deadline + 30:
                self.add(side=side, precision=precision, skipped="out of time")
                continue
            reference = Reference(self.checkpoint, self.config, TORCH[precision])
            if side.endswith("compiled"):
                reference.compile_blocks()
            times, similarity = {}, {}
            for name, inputs in self.inputs.items():
                similarity[name] = round(cosine(reference.rows(inputs), self.expected[name]), 6)
                times[name] = round(median_ms(lambda inputs=inputs, r=reference: r.rows(inputs)), 3)
            self.add(side=side, precision=precision, ms=times, cosine=similarity)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds after which no engine is started")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        benchmark = Benchmark(Path(scratch), args.output, args.deadline)
        benchmark.run(started)
    report = benchmark.report
    floors = {call.name: 1e3 * report["operations"][call.name]["all"] / report["matrix_rate"]["fp16"] for call in CALLS}
    print(f"{'':40}" + "".join(f"{call.name:>14}" for call in CALLS))
    print(f"{'floor, ms':40}" + "".join(f"{floors[call.name]:14.2f}" for call in CALLS))
    for result in report["results"]:
        if "ms" in result:
            label = f"{result['side']}, {result['precision']}"
            print(f"{label:40}" + "".join(f"{result['ms'][call.name]:14.2f}" for call in CALLS))


if __name__ == "__main__":
    main()
