"""What is compared: an engine of ONNX Runtime on a GPU, and the vision encoder of `transformers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeVisionConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeVisionModel

from bench.vision_encoder.calls import Call
from qwen3vl.config import VisionConfig
from qwen3vl.positions import interpolation, vision_positions

PREFIX = "model.visual."


class Inputs:
    """One call's inputs, on the GPU, for both sides."""

    def __init__(self, vision: VisionConfig, call: Call):
        shape = (call.frames, call.patches, vision.patch_dim)
        indices, weights = interpolation(*call.grid, vision.grid_side, vision.spatial_merge_size)
        arrays = {"patches": np.random.default_rng(call.patches).integers(0, 256, shape, dtype=np.uint8),
                  "patch_positions": vision_positions(*call.grid, vision.spatial_merge_size),
                  "interp_indices": indices, "interp_weights": weights}
        self.tensors = {name: torch.from_numpy(array).cuda() for name, array in arrays.items()}
        self.pixels = self.tensors["patches"].flatten(0, 1).float() / 127.5 - 1
        self.grids = torch.tensor([[1, *call.grid]] * call.frames, device="cuda")


class Reference:
    """The vision encoder of `transformers` with SDPA, on the GPU."""

    def __init__(self, checkpoint: Path, config: Qwen3VLMoeVisionConfig, dtype: torch.dtype):
        self.dtype = dtype
        with torch.device("cuda"):
            self.model = Qwen3VLMoeVisionModel._from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
        weights = load_file(checkpoint / "model.safetensors", "cuda")
        self.model.load_state_dict({name.removeprefix(PREFIX): weight.to(dtype) for name, weight in weights.items()})

    @torch.no_grad()
    def rows(self, inputs: Inputs) -> torch.Tensor:
        """float [(1 + D) * N, hidden], the rows of one token adjacent."""
        result = self.model(inputs.pixels.to(self.dtype), inputs.grids)
        return torch.stack([result.pooler_output, *result.deepstack_features], dim=1).flatten(0, 1)

    def compile_blocks(self) -> None:
        for block in self.model.blocks:
            block.compile(dynamic=False)


class BoundEngine:
    """A session whose inputs and output stay on the GPU."""

    def __init__(self, session):
        self.session = session

    def bind(self, inputs: Inputs, rows: torch.Tensor) -> None:
        """Take inputs from there and write into `rows`; both are kept, for the binding does not own them."""
        self.binding, self.bound = self.session.io_binding(), (inputs, rows)
        for name, tensor in inputs.tensors.items():
            dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
            self.binding.bind_input(name, "cuda", 0, dtype, tuple(tensor.shape), tensor.data_ptr())
        self.binding.bind_output("visual_rows", "cuda", 0, np.float32, tuple(rows.shape), rows.data_ptr())

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)
