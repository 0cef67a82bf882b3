"""Checkpoint to what a TensorRT-LLM deployment is built from: its own checkpoint, and the vision encoder's graph."""

from __future__ import annotations

import json
from pathlib import Path

from export.build_folder import BuildFolder
from export.exporter import Export
from export.progress import byte_progress
from export.trtllm.config import trtllm_config
from export.trtllm.options import DTYPES, PRECISIONS, TrtllmOptions
from export.trtllm.safetensors_file import write_safetensors
from export.trtllm.tensors import RankTensor, rank_tensors
from qwen3vl.config import ModelConfig

FOLDER = "trtllm"
CONFIG = f"{FOLDER}/config.json"
# Goes up when the same weights of a checkpoint are written differently.
RECIPE = 1


def export_trtllm(checkpoint_dir: Path, output: Path, options: TrtllmOptions) -> BuildFolder:
    """Write `output/trtllm/`, `output/onnx/vision_encoder.onnx`, `output/processor/` and `output/manifest.json`.

    What is already there is skipped, rank by rank. `trtllm/config.json` comes last: a folder that has it is whole.

    Args:
        checkpoint_dir: a Hugging Face checkpoint folder.
        output: the build folder.

    Raises:
        CheckpointError: the checkpoint is incomplete, inconsistent or of an architecture that the format cannot hold.
        ArtifactError: an option does not fit the model, or the output folder is in use or of another version.
    """
    options.check(ModelConfig.from_checkpoint(checkpoint_dir))
    with Export.open(checkpoint_dir, output, PRECISIONS[options.dtype]) as opened:
        vision, ranks = opened.vision_encoder(), _ranks(opened, options)
        opened.describe(trtllm=options.to_dict())
        made = [opened.copy_processor(), opened.write_vision_encoder(vision), _write(opened, options, ranks)]
        opened.report(any(made))
    return opened.build


def rank_file(number: int) -> str:
    """A rank's weights, relative to the build folder."""
    return f"{FOLDER}/rank{number}.safetensors"


def _ranks(opened: Export, options: TrtllmOptions) -> dict[str, list[RankTensor]]:
    parallelism = options.parallelism
    return {rank_file(number): rank_tensors(opened.config, opened.checkpoint, parallelism.rank(number),
                                            DTYPES[options.dtype]) for number in range(parallelism.world_size)}


def _write(opened: Export, options: TrtllmOptions, ranks: dict[str, list[RankTensor]]) -> bool:
    build, config = opened.build, trtllm_config(opened.config, options)
    weights_key = {**opened.key, "recipe": RECIPE, "mapping": config["mapping"]}
    keys = {name: {**weights_key, "rank": name} for name in ranks}
    config_key = {"config": config, "ranks": keys}
    missing = [name for name in ranks if not build.is_current(name, keys[name])]
    if missing or not build.is_current(CONFIG, config_key):
        build.discard(CONFIG)
    for path in build.path.glob(f"{FOLDER}/rank*.safetensors"):
        if (name := f"{FOLDER}/{path.name}") not in ranks:
            build.discard(name)
    if missing:
        total = sum(tensor.layout.size_bytes for name in missing for tensor in ranks[name])
        with byte_progress(f"export {FOLDER}", total) as progress:
            for name in missing:
                build.artifact(name, keys[name],
                               lambda path, tensors=ranks[name]: write_safetensors(path, tensors, progress))
    return build.artifact(CONFIG, config_key,
                          lambda path: path.write_text(json.dumps(config, indent=2) + "\n")) or bool(missing)
