"""Checkpoint to portable artifacts: ONNX graphs with streamed weights, and the files that serving needs."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from export.build_folder import BuildFolder, sha256
from export.decoder_graph import decoder_model
from export.vision_encoder_graph import vision_encoder_model
from export.weight_files import write_model
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.images import ImageSettings
from qwen3vl.processor import PROCESSOR_FILES

PRECISIONS = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def export(checkpoint_dir: Path, output: Path, precision: str = "fp32") -> BuildFolder:
    """Write `output/onnx/`, `output/processor/` and `output/manifest.json`; skip what is already there.

    Args:
        checkpoint_dir: a Hugging Face checkpoint folder.
        output: the build folder.
        precision: element type of weights and activations, a key of `PRECISIONS`.

    Raises:
        CheckpointError: the checkpoint is incomplete, inconsistent or of another architecture.
        ArtifactError: the output folder is in use or was written by another version.
    """
    config = ModelConfig.from_checkpoint(checkpoint_dir)
    images = ImageSettings.from_checkpoint(checkpoint_dir)
    dtype = PRECISIONS[precision]
    build = BuildFolder(output)
    with build.locked(), Checkpoint.open(checkpoint_dir) as checkpoint:
        # Both graphs first: a missing or misshapen tensor is found before anything is written.
        vision = vision_encoder_model(config.vision, checkpoint, image_mean=images.image_mean,
                                      image_std=images.image_std, dtype=dtype)
        decoder = decoder_model(config, checkpoint, dtype=dtype)
        key = {"checkpoint": checkpoint.fingerprint(), "precision": precision, "toolkit": version("qwen3vl-triton")}
        build.manifest |= {
            "source": {"path": str(checkpoint_dir.resolve()), "fingerprint": key["checkpoint"]},
            "config": config.to_dict(), "precision": precision,
            "versions": {name: version(name) for name in ("qwen3vl-triton", "onnx", "onnx-ir", "numpy")}}
        build.save()
        vision_key = {**key, "image_mean": list(images.image_mean), "image_std": list(images.image_std)}
        made = [_copy_processor(build, checkpoint_dir),
                write_model(build, "onnx/vision_encoder.onnx", *vision, vision_key),
                write_model(build, "onnx/decoder.onnx", *decoder, key)]
    if not any(made):
        print(f"the export in {output} is up to date", file=sys.stderr)
    return build


def _copy_processor(build: BuildFolder, checkpoint_dir: Path) -> bool:
    """Copy tokenizer, chat template and settings, so that the build needs the checkpoint no more."""
    present = [name for name in PROCESSOR_FILES if (checkpoint_dir / name).is_file()]

    def produce(folder: Path) -> None:
        folder.mkdir()
        for name in present:
            shutil.copyfile(checkpoint_dir / name, folder / name)

    return build.artifact("processor", {name: sha256(checkpoint_dir / name) for name in present}, produce)
