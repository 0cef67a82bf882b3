"""What the benchmark of the vision encoder needs: a checkpoint of random weights, exports and engines in fp16 and bf16.

    python -m bench.vision_encoder.prepare FOLDER --vision-kernels build/vision_kernels/libvision_kernels.so
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeVisionModel

from bench.synthetic_checkpoint import config_30b_a3b
from bench.vision_encoder.sides import PREFIX
from engines.builder import build_engines
from engines.onnxruntime.cuda_build import CudaBuildOptions
from export.build_folder import BuildFolder
from export.exporter import PRECISIONS
from export.vision_encoder_graph import vision_encoder_model
from export.weight_files import write_model
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig

MEASURED = ("fp16", "bf16")


def make_checkpoint(folder: Path, seed: int = 0) -> None:
    """The vision encoder of Qwen3-VL-30B-A3B: its shapes; products of unit variance, norms near 1, biases near 0."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_30b_a3b()
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = Qwen3VLMoeVisionModel(config.vision_config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)

    def weight(name: str, shape: torch.Size) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, device=device)
        if len(shape) > 1:
            return values / math.prod(shape[1:]) ** 0.5
        return 0.1 * values + (0 if name.endswith("bias") else 1)

    save_file({PREFIX + name: weight(name, shape).to(torch.bfloat16) for name, shape in shapes.items()},
              folder / "model.safetensors")


def export_vision_encoder(checkpoint: Path, folder: Path, precision: str) -> None:
    """A build folder with the vision encoder alone."""
    build, config = BuildFolder(folder), ModelConfig.from_checkpoint(checkpoint)
    with build.locked(), Checkpoint.open(checkpoint) as opened:
        model = vision_encoder_model(config.vision, opened, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                                     dtype=PRECISIONS[precision])
        write_model(build, "onnx/vision_encoder.onnx", *model, {"checkpoint": opened.fingerprint()})
        build.manifest.update(config=config.to_dict(), precision=precision)
        build.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vision-kernels", type=Path, required=True)
    args = parser.parse_args()
    make_checkpoint(args.folder / "checkpoint")
    for precision in MEASURED:
        export_vision_encoder(args.folder / "checkpoint", args.folder / precision, precision)
        build_engines(args.folder / precision, "cuda", ["vision_encoder"], cuda=CudaBuildOptions(args.vision_kernels))


if __name__ == "__main__":
    main()
