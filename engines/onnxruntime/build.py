"""ONNX graphs to ONNX Runtime engines: optimised once, here, instead of at each start."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from engines.onnxruntime.rewrite import attend_by_matrix_products, use_flash_attention
from engines.onnxruntime.session import ENGINE_FILE, WEIGHTS_FILE, load_session, session_options
from engines.rewritten_graph import saved_beside
from export.build_folder import BuildFolder

QUANTISED_OPERATORS = ("MatMulNBits", "QMoE")
# Goes up when engines of the same graph come out differently.
RECIPE = 2


def build_engine(build: BuildFolder, name: str) -> bool:
    """Make `engines/<name>/` from `onnx/<name>.onnx`; skip it if it is there already.

    The graph is optimised for any CPU, saved with its weights beside it and loaded once, so that an engine that is
    there is one that loads.

    Returns:
        Whether it was made now.

    Raises:
        ArtifactError: the graph is missing or ONNX Runtime refuses it.
    """
    source = build.path / "onnx" / f"{name}.onnx"
    key = {"graph": build.identity_of(f"onnx/{name}.onnx"), "onnxruntime": onnxruntime.__version__, "recipe": RECIPE}

    def produce(folder: Path) -> None:
        started = time.monotonic()
        runtime = f"ONNX Runtime {onnxruntime.__version__}"
        print(f"build engines/{name} with {runtime} ...", end=" ", file=sys.stderr, flush=True)
        folder.mkdir()
        options = session_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(folder / ENGINE_FILE)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "4096")
        model = ir.load(source)
        use_flash_attention(model)
        attend_by_matrix_products(model)
        if any(node.op_type in QUANTISED_OPERATORS for node in model.graph):
            # Kernels repack integers. Saved, their layout is mapped from the file instead of held beside it; a
            # processor that packs otherwise notices, and packs for itself as it loads.
            options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
        with saved_beside(source, model) as graph:
            load_session(graph, options)
        load_session(folder / ENGINE_FILE, session_options())
        print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)

    return build.artifact(f"engines/{name}", key, produce)
