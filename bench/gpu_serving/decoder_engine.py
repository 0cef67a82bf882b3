"""The engine of a decoder with many layers whose weights are those of a few, again and again.

The graph is the one that `qwen3vl build --target cuda` writes, and at run time every layer has weights of its own in
the GPU's memory: only in the file do layers share their place. So a step reads as many bytes as that of a real model,
but a file of 4 GB does for 61 GB of weights.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import onnx_ir as ir

from engines.onnxruntime.build import WEIGHTS_FILE
from engines.onnxruntime.cuda_decoder_build import finish_cuda_decoder, require_suitable, rewrite_cuda_decoder
from engines.onnxruntime.cuda_record import LIBRARY_FILE
from engines.onnxruntime.session import ENGINE_FILE
from export.build_folder import sha256
from export.decoder_graph import decoder_model
from export.precision import PRECISIONS, quantisation_of, wide_precision
from export.progress import byte_progress
from export.weight_files import ALIGNMENT
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig

# Larger ones are in the file of weights, as `onnx_ir.save` does it.
INLINE_BYTES = 256
LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")


def write_repeated_decoder(folder: Path, config: ModelConfig, checkpoint: Checkpoint, precision: str,
                           kernels: Path | None, distinct: int) -> None:
    """Write `engines/decoder/` anew.

    Args:
        checkpoint: asked for the shapes of every layer's weights, and for the values of the first `distinct` ones'.
        precision: of weights and activations.
        kernels: the library of plugins/decoder_kernels; None for ONNX Runtime's own operators.
        distinct: layer i has the weights of layer i mod `distinct`.

    Raises:
        ArtifactError: there is no kernel library, or it has no kernels for the shapes.
    """
    if kernels is not None:
        require_suitable(config.text, kernels)
    model, _ = decoder_model(config, checkpoint, dtype=PRECISIONS[wide_precision(precision)],
                             quantisation=quantisation_of(precision))
    rewrite_cuda_decoder(model, config, kernels=kernels is not None)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_weights(model.graph, folder, distinct)
    ir.save(model, folder / ENGINE_FILE)
    if kernels is not None:
        shutil.copyfile(kernels, folder / LIBRARY_FILE)
    finish_cuda_decoder(folder, config, wide_precision(precision), kernels=kernels is not None,
                        library=kernels and sha256(kernels), weight_bytes=size)


def _write_weights(graph: ir.Graph, folder: Path, distinct: int) -> None:
    """Write those of the first layers, and make all references to them."""
    values = [value for value in graph.initializers.values() if value.const_value.nbytes > INLINE_BYTES]
    named = {value: LAYER.sub(lambda layer: str(int(layer[0]) % distinct), value.name) for value in values}
    written = {name: value.const_value for value, name in named.items() if value.name == name}
    places: dict[str, int] = {}
    with (open(folder / WEIGHTS_FILE, "wb") as stream,
          byte_progress("made-up decoder", sum(tensor.nbytes for tensor in written.values())) as progress):
        for name, tensor in written.items():
            places[name] = -(-stream.tell() // ALIGNMENT) * ALIGNMENT
            stream.seek(places[name])
            tensor.tofile(stream)
            progress.update(tensor.nbytes)
    for value, name in named.items():
        tensor = value.const_value
        if (tensor.dtype, tensor.shape) != (written[name].dtype, written[name].shape):
            raise ValueError(f"{value.name} is {tensor.dtype}{tensor.shape}, but {name} is "
                             f"{written[name].dtype}{written[name].shape}: layers differ")
        value.const_value = ir.ExternalTensor(WEIGHTS_FILE, places[name], tensor.nbytes, tensor.dtype,
                                              shape=tensor.shape, name=tensor.name, base_dir=folder)
