"""Checkpoint to portable artifacts: ONNX graphs with streamed weights, and the files that serving needs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from export.build_folder import BuildFolder, sha256
from export.decoder_graph import decoder_model
from export.graph import GraphBuilder
from export.precision import PRECISIONS, quantisation_of, wide_precision
from export.quantisation.blocks import RECIPE as QUANTISATION_RECIPE
from export.vision_encoder_graph import vision_encoder_model
from export.weight_files import write_model
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.images import ImageSettings
from qwen3vl.processor import PROCESSOR_FILES


def export(checkpoint_dir: Path, output: Path, precision: str = "fp32") -> BuildFolder:
    """Write `output/onnx/`, `output/processor/` and `output/manifest.json`; skip what is already there.

    Args:
        checkpoint_dir: a Hugging Face checkpoint folder.
        output: the build folder.
        precision: a key of `PRECISIONS`, the element type of weights and activations; of `QUANTISED`, the decoder's
            weights as integers and all else in float32; or of `MIXED`, with all else in a half type.

    Raises:
        CheckpointError: the checkpoint is incomplete, inconsistent or of another architecture.
        ArtifactError: the output folder is in use or was written by another version.
    """
    with Export.open(checkpoint_dir, output, precision) as opened:
        # Both graphs first: a missing or misshapen tensor is found before anything is written.
        vision = opened.vision_encoder()
        decoder = opened.decoder()
        opened.describe()
        made = [opened.copy_processor(), opened.write_vision_encoder(vision),
                opened.write_decoder(decoder)]
        opened.report(any(made))
    return opened.build


@dataclass(frozen=True)
class Export:
    """What exports to any format share: the opened checkpoint, the locked build folder, and the vision encoder."""

    build: BuildFolder
    checkpoint: Checkpoint
    config: ModelConfig
    images: ImageSettings
    precision: str
    key: dict

    @classmethod
    @contextmanager
    def open(cls, checkpoint_dir: Path, output: Path, precision: str) -> Iterator[Export]:
        """Errors as in `export`."""
        config = ModelConfig.from_checkpoint(checkpoint_dir)
        images = ImageSettings.from_checkpoint(checkpoint_dir)
        build = BuildFolder(output)
        with build.locked(), Checkpoint.open(checkpoint_dir) as checkpoint:
            key = {"checkpoint": checkpoint.fingerprint(), "precision": precision, "toolkit": version("qwen3vl-triton")}
            yield cls(build, checkpoint, config, images, precision, key)

    def describe(self, **more: object) -> None:
        """Write into the manifest what the build is made from."""
        self.build.manifest |= {
            "source": {"path": str(self.checkpoint.folder.resolve()), "fingerprint": self.key["checkpoint"]},
            "config": self.config.to_dict(), "precision": self.precision,
            "versions": {name: version(name) for name in ("qwen3vl-triton", "onnx", "onnx-ir", "numpy")}, **more}
        self.build.save()

    def vision_encoder(self) -> tuple[ir.Model, GraphBuilder]:
        return vision_encoder_model(self.config.vision, self.checkpoint, image_mean=self.images.image_mean,
                                    image_std=self.images.image_std, dtype=self._dtype)

    def write_vision_encoder(self, vision: tuple[ir.Model, GraphBuilder]) -> bool:
        key = {**self.key, "precision": wide_precision(self.precision), "image_mean": list(self.images.image_mean),
               "image_std": list(self.images.image_std)}
        return write_model(self.build, "onnx/vision_encoder.onnx", *vision, key)

    def decoder(self) -> tuple[ir.Model, GraphBuilder]:
        return decoder_model(self.config, self.checkpoint, dtype=self._dtype,
                             quantisation=quantisation_of(self.precision))

    def write_decoder(self, decoder: tuple[ir.Model, GraphBuilder]) -> bool:
        key, quantisation = self.key, quantisation_of(self.precision)
        if quantisation is not None:
            key = {**key, "quantisation": {**asdict(quantisation), "recipe": QUANTISATION_RECIPE}}
        return write_model(self.build, "onnx/decoder.onnx", *decoder, key)

    @property
    def _dtype(self) -> ir.DataType:
        return PRECISIONS[wide_precision(self.precision)]

    def copy_processor(self) -> bool:
        """Copy tokenizer, chat template and settings, so that the build needs the checkpoint no more."""
        source = self.checkpoint.folder
        present = [name for name in PROCESSOR_FILES if (source / name).is_file()]

        def produce(folder: Path) -> None:
            folder.mkdir()
            for name in present:
                shutil.copyfile(source / name, folder / name)

        return self.build.artifact("processor", {name: sha256(source / name) for name in present}, produce)

    def report(self, made: bool) -> None:
        if not made:
            print(f"the export in {self.build.path} is up to date", file=sys.stderr)
