"""Writes weights as a Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from qwen3vl.torch_model import TorchModel


def save_weights(model: TorchModel, folder: Path) -> None:
    """model.safetensors in bfloat16, in place of any other."""
    tensors = {name: parameter.detach().to("cpu", torch.bfloat16).contiguous()
               for name, parameter in model.checkpoint_parameters()}
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)
