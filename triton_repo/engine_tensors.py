"""Do the engines take and give what the model repository is about to declare?"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx

from engines.description import EngineDescription
from engines.onnxruntime.session import ENGINE_FILE
from engines.tensorrt.record import RECORD_FILE, EngineRecord
from engines.trtllm import record as trtllm_record
from qwen3vl.errors import ArtifactError


def check_engines(engine_dir: Path, engines: Collection[str]) -> None:
    """Compare the engines' own inputs and outputs with the configuration beside them. No weights are read.

    Args:
        engines: which of them to look at; others may be missing.

    Raises:
        ArtifactError: an engine is missing or unreadable, or a tensor is missing or of another size.
    """
    description = EngineDescription.load(engine_dir)
    config = description.config
    hidden, patch_dim = config.text.hidden_size, config.vision.patch_dim
    for engine, tensor, size, meaning in (
            ("vision_encoder", "patches", patch_dim, "values of a patch (from vision_config)"),
            ("vision_encoder", "visual_rows", hidden, "text_config.hidden_size"),
            ("decoder", "visual_rows", hidden, "text_config.hidden_size"),
            ("decoder", "logits", config.text.vocab_size, "text_config.vocab_size")):
        if engine not in engines:
            continue
        folder = engine_dir / description.folder(engine)
        tensors = last_sizes(folder)
        if tensor not in tensors:
            raise ArtifactError(f"{folder}: the engine has no tensor {tensor}, only {', '.join(sorted(tensors))}: run "
                                "`qwen3vl build` again")
        if tensors[tensor] != size:
            raise ArtifactError(f"{folder}: the engine's tensor {tensor} has {tensors[tensor]} as its last dimension, "
                                f"expected {size}, the {meaning} in engine.json: run `qwen3vl build` again")


def last_sizes(folder: Path) -> dict[str, int | str]:
    """Name of each input and output of an engine -> its last dimension; -1 or a name where it is dynamic."""
    if (folder / RECORD_FILE).is_file():
        record = EngineRecord.load(folder)
        return {name: info.shape[-1] for name, info in {**record.inputs, **record.outputs}.items() if info.shape}
    if (folder / trtllm_record.RECORD_FILE).is_file():
        record = trtllm_record.TrtllmRecord.load(folder)
        return {"visual_rows": record.hidden_size, "logits": record.vocab_size}
    path = folder / ENGINE_FILE
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist: run `qwen3vl build` first") from None
    except Exception as error:
        raise ArtifactError(f"{path} is not an ONNX file: {error}") from None
    sizes = {}
    for value in (*graph.input, *graph.output):
        if dims := value.type.tensor_type.shape.dim:
            sizes[value.name] = dims[-1].dim_value or dims[-1].dim_param
    return sizes
