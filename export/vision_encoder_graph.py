"""The vision encoder as an ONNX graph: uint8 patches in, visual rows out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.graph import GraphBuilder, value
from export.weights import CheckpointWeights
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import VisionConfig
from qwen3vl.rope import vision_frequencies

PREFIX = "model.visual"
EPSILON = 1e-6


def vision_encoder_model(config: VisionConfig, checkpoint: Checkpoint, *, image_mean: Sequence[float],
                         image_std: Sequence[float], dtype: ir.DataType) -> tuple[ir.Model, GraphBuilder]:
    """Build the graph; weights are read later, when the model is written.

    One call encodes F frames of one grid with P patches each. Frames are the batch, so attention never crosses them.

    Inputs: `patches` uint8 [F, P, patch_dim] in merge-block order; `patch_positions` int32 [P, 2] (row, column);
    `interp_indices` int32 [P, 4] and `interp_weights` float32 [P, 4], the bilinear taps of the position table.
    Output: `visual_rows` float32 [(1 + D) * F * P / merge_unit, hidden]; the rows of one token are adjacent.
    """
    return _VisionEncoderGraph(config, checkpoint, dtype).build(image_mean, image_std)


class _VisionEncoderGraph:
    def __init__(self, config: VisionConfig, checkpoint: Checkpoint, dtype: ir.DataType):
        self.config = config
        self.builder = GraphBuilder(dtype, group="embeddings")
        self.weights = CheckpointWeights(checkpoint, self.builder)
        self.op, self.constant = self.builder.op, self.builder.constant

    def build(self, image_mean: Sequence[float], image_std: Sequence[float]) -> tuple[ir.Model, GraphBuilder]:
        config = self.config
        patches = value("patches", ir.DataType.UINT8, ["frames", "patches", config.patch_dim])
        positions = value("patch_positions", ir.DataType.INT32, ["patches", 2])
        indices = value("interp_indices", ir.DataType.INT32, ["patches", 4])
        taps = value("interp_weights", ir.DataType.FLOAT, ["patches", 4])

        hidden = self.op("Add", self._embed(self._normalise(patches, image_mean, image_std)),
                         self._position_embedding(indices, taps))
        cos, sin = self._rotary(positions, patches)
        levels = []
        for index in range(config.depth):
            self.builder.group = f"block-{index:03d}"
            hidden = self._block(f"{PREFIX}.blocks.{index}", hidden, cos, sin)
            if index in config.deepstack_visual_indexes:
                self.builder.group = f"merger-{len(levels) + 1}"
                merger = f"{PREFIX}.deepstack_merger_list.{len(levels)}"
                levels.append(self._merger(merger, hidden, norm_after_merge=True))
        self.builder.group = "merger-0"
        rows = [self._merger(f"{PREFIX}.merger", hidden, norm_after_merge=False), *levels]
        stacked = self.op("Concat", *(self.op("Unsqueeze", row, self.constant([1])) for row in rows), axis=1)
        table = self.op("Reshape", stacked, self.constant([-1, config.out_hidden_size]))
        output = self.op("Cast", table, to=int(ir.DataType.FLOAT), outputs=["visual_rows"])[0]
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["rows", config.out_hidden_size])
        model = self.builder.model("vision_encoder", [patches, positions, indices, taps], [output])
        return model, self.builder

    def _normalise(self, patches: ir.Value, mean: Sequence[float], std: Sequence[float]) -> ir.Value:
        """`(pixel / 255 - mean) / std` per channel, as one scale and one offset for each value of a patch."""
        per_channel = self.config.patch_dim // self.config.in_channels
        scale = np.repeat(1.0 / (255.0 * np.asarray(std)), per_channel).astype(np.float32)
        offset = np.repeat(-np.asarray(mean) / np.asarray(std), per_channel).astype(np.float32)
        pixels = self.builder.cast(patches, ir.DataType.FLOAT)
        scaled = self.op("Mul", pixels, self.constant(scale, "pixel_scale"))
        shifted = self.op("Add", scaled, self.constant(offset, "pixel_offset"))
        return self.builder.cast(shifted, self.builder.dtype)

    def _embed(self, pixels: ir.Value) -> ir.Value:
        """The patch convolution: its kernel covers one whole patch, so it is a product [patch_dim, hidden]."""
        config, name = self.config, f"{PREFIX}.patch_embed.proj"
        kernel = (config.hidden_size, config.in_channels, config.temporal_patch_size, config.patch_size,
                  config.patch_size)
        weight = self.weights.matrix(f"{name}.weight", [f"{name}.weight"], config.patch_dim, [config.hidden_size],
                                     stored=kernel)
        return self.builder.linear(pixels, weight, self.weights.plain(f"{name}.bias", (config.hidden_size,)))

    def _position_embedding(self, indices: ir.Value, taps: ir.Value) -> ir.Value:
        """Bilinear interpolation of the learned position table: [P, hidden]."""
        config = self.config
        table = self.weights.table(f"{PREFIX}.pos_embed.weight", (config.num_position_embeddings, config.hidden_size))
        corners = self.op("Gather", table, indices, axis=0)
        weights = self.builder.cast(self.op("Unsqueeze", taps, self.constant([-1])), self.builder.dtype)
        return self.op("ReduceSum", self.op("Mul", corners, weights), self.constant([1]), keepdims=0)

    def _rotary(self, positions: ir.Value, patches: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines of the two-dimensional rotary embedding: [F, P, head_dim / 2], rows first, then columns."""
        half = self.config.head_dim // 2
        coordinates = self.op("Unsqueeze", self.builder.cast(positions, ir.DataType.FLOAT), self.constant([-1]))
        frequencies = self.constant(vision_frequencies(self.config), "vision_frequencies")
        angles = self.op("Reshape", self.op("Mul", coordinates, frequencies), self.constant([1, -1, half]))
        frames = self.op("Shape", patches, start=0, end=1)
        shape = self.op("Concat", frames, self.constant([1, 1]), axis=0)

        def per_frame(function: str) -> ir.Value:
            return self.op("Expand", self.builder.cast(self.op(function, angles), self.builder.dtype), shape)

        return per_frame("Cos"), per_frame("Sin")

    def _block(self, name: str, hidden: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        config, size = self.config, self.config.hidden_size
        normed = self._layer_norm(f"{name}.norm1", hidden, size)
        qkv = self._linear(f"{name}.attn.qkv", normed, size, 3 * size)
        parts = [f"{name}.attn.{part}" for part in ("query", "key", "value")]
        query, key, val = self.op("Split", qkv, axis=-1, num_outputs=3, outputs=parts)
        query, key = (self.op("RotaryEmbedding", x, cos, sin, num_heads=config.num_heads) for x in (query, key))
        attended = self.op("Attention", query, key, val, q_num_heads=config.num_heads, kv_num_heads=config.num_heads,
                           scale=config.head_dim**-0.5)
        hidden = self.op("Add", hidden, self._linear(f"{name}.attn.proj", attended, size, size))
        normed = self._layer_norm(f"{name}.norm2", hidden, size)
        inner = self._linear(f"{name}.mlp.linear_fc1", normed, size, config.intermediate_size)
        inner = self.op("Gelu", inner, approximate="tanh")
        return self.op("Add", hidden, self._linear(f"{name}.mlp.linear_fc2", inner, config.intermediate_size, size))

    def _merger(self, name: str, hidden: ir.Value, *, norm_after_merge: bool) -> ir.Value:
        """Four neighbouring patches become one visual token: [F * P / merge_unit, out_hidden_size]."""
        config, merged = self.config, self.config.merged_size
        shape = self.constant([-1, merged])
        if norm_after_merge:
            x = self._layer_norm(f"{name}.norm", self.op("Reshape", hidden, shape), merged)
        else:
            x = self.op("Reshape", self._layer_norm(f"{name}.norm", hidden, config.hidden_size), shape)
        x = self.op("Gelu", self._linear(f"{name}.linear_fc1", x, merged, merged))
        return self._linear(f"{name}.linear_fc2", x, merged, config.out_hidden_size)

    def _layer_norm(self, name: str, x: ir.Value, size: int) -> ir.Value:
        scale, bias = (self.weights.plain(f"{name}.{part}", (size,)) for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)

    def _linear(self, name: str, x: ir.Value, inputs: int, outputs: int) -> ir.Value:
        weight = self.weights.matrix(f"{name}.weight", [f"{name}.weight"], inputs, [outputs])
        return self.builder.linear(x, weight, self.weights.plain(f"{name}.bias", (outputs,)))
