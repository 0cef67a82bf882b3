"""Inputs of the vision encoder's graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from qwen3vl.config import VisionConfig
from qwen3vl.positions import interpolation, vision_positions


def vision_inputs(config: VisionConfig, *, frames: int, grid: tuple[int, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random patches of `frames` frames, and what belongs to their grid."""
    indices, weights = interpolation(*grid, config.grid_side, config.spatial_merge_size)
    shape = (frames, grid[0] * grid[1], config.patch_dim)
    return {"patches": np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8),
            "patch_positions": vision_positions(*grid, config.spatial_merge_size),
            "interp_indices": indices, "interp_weights": weights}


def rounded_after_each_node(model: ir.Model, dtype: ir.DataType) -> ir.Model:
    """The graph for a runtime without kernels of that type: every node computes in float32, and what it gives is
    rounded to `dtype`. Changes and returns the model."""
    ShapeInferencePass()(model)
    float32 = ir.DataType.FLOAT
    for node in list(model.graph):
        if node.op_type == "Cast":
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == dtype:
                cast = ir.node("Cast", [value], {"to": int(float32)})
                model.graph.insert_before(node, cast)
                node.replace_input_with(index, cast.outputs[0])
        for value in node.outputs:
            if value.dtype == dtype:
                cast = ir.node("Cast", [value], {"to": int(dtype)})
                cast.outputs[0].dtype, value.dtype = dtype, float32
                ir.convenience.replace_all_uses_with(value, cast.outputs[0])
                cast.replace_input_with(0, value)
                model.graph.insert_after(node, cast)
    return model
