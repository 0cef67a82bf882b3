"""Time, memory and size of building the full-size vision encoder with TensorRT for RTX, on a machine without a GPU.

    python -m bench.tensorrt_rtx_build --output bench/results/tensorrt_rtx_build.json

The 27 blocks and four mergers have the published shapes of Qwen3-VL-30B-A3B and made-up weights. Every build is a
process of its own, `qwen3vl build --target tensorrt --flavour tensorrt_rtx --engine vision_encoder`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from bench.environment import describe_machine
from bench.synthetic_checkpoint import config_30b_a3b, write_checkpoint
from engines.tensorrt.record import ENGINE_FILE, LAYERS_FILE, EngineRecord
from export.build_folder import BuildFolder
from export.exporter import PRECISIONS
from export.vision_encoder_graph import vision_encoder_model
from export.weight_files import write_model
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig

LARGEST = 16_777_216  # pixels; size.longest_edge of the published preprocessor_config.json
FULL_HD = 1920 * 1088
# Precision, compute capabilities, largest image. Attention in fp32 is not fused: its scores need memory.
CASES = [(precision, capability, LARGEST) for precision in ("fp16", "bf16")
         for capability in ("8.6", "8.9", "12.0", "8.6,8.9,12.0")] + [("fp32", "8.9", FULL_HD)]


def make_checkpoint(folder: Path) -> None:
    """The full vision encoder; of the decoder only what a valid checkpoint needs."""
    config = config_30b_a3b(layers=3)
    config.text_config.num_experts = 8
    write_checkpoint(folder, config, seed=0)


def export_vision_encoder(checkpoint: Path, folder: Path, precision: str) -> BuildFolder:
    config, build = ModelConfig.from_checkpoint(checkpoint), BuildFolder(folder)
    with build.locked(), Checkpoint.open(checkpoint) as opened:
        model = vision_encoder_model(config.vision, opened, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                                     dtype=PRECISIONS[precision])
        build.manifest |= {"config": config.to_dict(), "precision": precision}
        write_model(build, "onnx/vision_encoder.onnx", *model, {"precision": precision})
        build.save()
    return build


def measure(folder: Path, precision: str, capabilities: str, pixels: int) -> dict:
    command = ["build", str(folder), "--target", "tensorrt", "--flavour", "tensorrt_rtx", "--engine", "vision_encoder",
               "--compute-capability", capabilities, "--max-image-pixels", str(pixels)]
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "client.cli", *command])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"the build failed with exit code {process.returncode}")
    engine = folder / "engines/vision_encoder"
    record, report = EngineRecord.load(engine), (engine / LAYERS_FILE).read_text()
    return {"precision": precision, "compute_capabilities": list(record.compute_capabilities),
            "profiles": [{"frames": profile.frames.max, "patches": profile.patches.max, "activation_bytes": size}
                         for profile, size in zip(record.profiles, record.activation_bytes, strict=True)],
            "seconds": round(seconds, 1), "peak_memory_bytes": usage.ru_maxrss * 1024,
            "engine_bytes": (engine / ENGINE_FILE).stat().st_size,
            "graph_weight_bytes": sum(file.stat().st_size for file in (folder / "onnx").rglob("*.bin")),
            # The report lists the layers of every profile.
            "layers": len(re.findall(r"^Name: .*LayerType: (?!signal|wait|shape_call)", report, re.MULTILINE))
            // len(record.profiles),
            "fused_attentions": len(re.findall(r"^Name: _gemm_mha", report, re.MULTILINE)) // len(record.profiles)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        make_checkpoint(Path(scratch, "checkpoint"))
        for precision, capabilities, pixels in CASES:
            folder = Path(scratch, precision)
            export_vision_encoder(Path(scratch, "checkpoint"), folder, precision)
            results.append(measure(folder, precision, capabilities, pixels))
            print(json.dumps(results[-1]))
    report = {**describe_machine(), "tensorrt_rtx": version("tensorrt-rtx"), "results": results}
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
