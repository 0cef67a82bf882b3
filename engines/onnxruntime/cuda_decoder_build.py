"""The decoder's graph to an engine for ONNX Runtime on a GPU."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from engines.onnxruntime.build import WEIGHTS_FILE
from engines.onnxruntime.cuda_candidates_graph import write_candidates
from engines.onnxruntime.cuda_decoder_graph import use_decoder_kernels
from engines.onnxruntime.cuda_own_operators import use_own_operators
from engines.onnxruntime.cuda_record import ELEMENT_TYPES, LIBRARY_FILE, CudaDecoderRecord
from engines.onnxruntime.cuda_session import has_cuda, load_decoder_session
from engines.onnxruntime.cuda_visual_rows import read_padded_rows
from engines.onnxruntime.session import ENGINE_FILE
from export.build_folder import BuildFolder, sha256
from export.progress import byte_progress
from qwen3vl.config import ModelConfig, TextConfig
from qwen3vl.errors import ArtifactError

# Goes up when engines of the same graph come out differently.
RECIPE = 4
# What the kernels are compiled for: see plugins/decoder_kernels/csrc/decoder_kernels.h.
KERNEL_SHAPE = {"hidden_size": 2048, "head_dim": 128, "num_experts": 128, "moe_intermediate_size": 768}
KERNEL_GROUP = 8  # query heads for each key-value head
KERNEL_ATTENTION_WIDTHS = (2048, 4096)  # of all query heads
KERNEL_MOST_WORDS = 262144


def build_cuda_decoder(build: BuildFolder, kernels: Path | None) -> bool:
    """Make `engines/decoder/`: the rewritten graph, its weights and the kernel library; skip it if it is there.

    No GPU is needed. Where ONNX Runtime has CUDA the engine is loaded once, so that an engine made there is one that
    loads.

    Args:
        kernels: the library of plugins/decoder_kernels; None to use ONNX Runtime's own operators alone.

    Returns:
        Whether it was made now.

    Raises:
        ArtifactError: the graph is missing, ONNX Runtime has no kernels for its precision, there is no kernel library
            or the model does not suit it, or ONNX Runtime refuses the engine.
    """
    source, config = build.path / "onnx/decoder.onnx", ModelConfig.from_dict(build.manifest["config"])
    identity = build.identity_of("onnx/decoder.onnx")
    precision = _activations(source)
    if precision == "fp32":
        raise ArtifactError(f"the decoder was exported in {build.manifest['precision']}, whose activations are "
                            "float32, but ONNX Runtime has attention for a GPU in float16 and bfloat16 alone: export "
                            "with --precision fp16 or bf16, for weights of 4 bits int4-fp16 or int4-bf16, or build "
                            "with --engine vision_encoder")
    if kernels is not None:
        require_suitable(config.text, kernels)
    library = kernels and sha256(kernels)
    key = {"graph": identity, "recipe": RECIPE, "target": "cuda", "decoder_kernels": library}

    def produce(folder: Path) -> None:
        started = time.monotonic()
        print("build engines/decoder for ONNX Runtime with CUDA ...", file=sys.stderr, flush=True)
        folder.mkdir()
        write_cuda_decoder(source, folder, config, kernels=kernels is not None, library=library)
        if kernels is not None:
            shutil.copyfile(kernels, folder / LIBRARY_FILE)
        if has_cuda():
            load_decoder_session(folder, "cuda")
        print(f"engines/decoder: {time.monotonic() - started:.1f} s", file=sys.stderr)

    return build.artifact("engines/decoder", key, produce)


def write_cuda_decoder(source: Path, folder: Path, config: ModelConfig, *, kernels: bool,
                       library: str | None = None) -> None:
    """Write the engine of an exported decoder, without the kernel library. One weight at a time is in memory.

    Args:
        kernels: whether sessions will have the operators of plugins/decoder_kernels.
        library: SHA-256 of their library.

    Raises:
        ArtifactError: there is a part that no operator is for.
    """
    model = ir.load(source)
    try:
        rewrite_cuda_decoder(model, config, kernels=kernels)
    except ValueError as error:
        raise ArtifactError(f"{source} cannot become an engine for a GPU: {error}") from error
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    with byte_progress("build engines/decoder", size) as progress:
        ir.save(model, folder / ENGINE_FILE, external_data=WEIGHTS_FILE,
                callback=lambda tensor, _: progress.update(tensor.nbytes))
    finish_cuda_decoder(folder, config, _activations(source), kernels=kernels, library=library, weight_bytes=size)


def finish_cuda_decoder(folder: Path, config: ModelConfig, precision: str, *, kernels: bool, library: str | None,
                        weight_bytes: int) -> None:
    """Write what stands beside the engine's graph and weights: see `write_cuda_decoder`, and `CudaDecoderRecord`."""
    if not kernels:
        write_candidates(folder, config.text.vocab_size)
    CudaDecoderRecord(precision, library, weight_bytes, 0 if kernels else config.rows_per_token).save(folder)


def rewrite_cuda_decoder(model: ir.Model, config: ModelConfig, *, kernels: bool) -> None:
    """Turn an exported decoder into the engine's graph, in place; no weight is read.

    Raises:
        ValueError: there is a part that no operator is for.
    """
    if kernels:
        use_decoder_kernels(model)
    else:
        use_own_operators(model)
        read_padded_rows(model, config.rows_per_token)
    RemoveUnusedNodesPass()(model)


def require_suitable(text: TextConfig, library: Path) -> None:
    """Raise an ArtifactError unless there is a kernel library and it has kernels for a model's shapes."""
    if not library.is_file():
        raise ArtifactError(f"{library} does not exist: make it with `cmake -S plugins/decoder_kernels -B "
                            "build/decoder_kernels -DONNXRUNTIME_ROOT=...` and `cmake --build build/decoder_kernels`, "
                            "or leave --decoder-kernels out")
    unsuitable = [f"text_config.{name} is {getattr(text, name)}, expected {size}"
                  for name, size in KERNEL_SHAPE.items() if getattr(text, name) != size]
    if text.num_attention_heads != KERNEL_GROUP * text.num_key_value_heads:
        unsuitable.append(f"text_config.num_attention_heads is {text.num_attention_heads}, expected {KERNEL_GROUP} "
                          f"times num_key_value_heads = {text.num_key_value_heads}")
    elif (width := text.num_attention_heads * text.head_dim) not in KERNEL_ATTENTION_WIDTHS:
        unsuitable.append(f"text_config.num_attention_heads x head_dim is {width}, expected "
                          f"{' or '.join(map(str, KERNEL_ATTENTION_WIDTHS))}")
    if text.vocab_size % 8 or text.vocab_size > KERNEL_MOST_WORDS:
        unsuitable.append(f"text_config.vocab_size is {text.vocab_size}, expected a multiple of 8 up to "
                          f"{KERNEL_MOST_WORDS}")
    if unsuitable:
        raise ArtifactError(f"the decoder kernels have the shapes of Qwen3-VL-30B-A3B, but {'; '.join(unsuitable)}: "
                            "leave --decoder-kernels out")


def _activations(graph: Path) -> str:
    """The exported decoder's activations' type, a key of `ELEMENT_TYPES`."""
    table = next(value for value in ir.load(graph).graph.inputs if value.name == "visual_rows")
    return next(name for name, (number, _) in ELEMENT_TYPES.items() if number == int(table.dtype))
