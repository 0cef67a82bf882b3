"""The fused experts of one layer: the one place that knows in which orientation a checkpoint stores them."""

from __future__ import annotations

import numpy as np

from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import TextConfig
from qwen3vl.errors import CheckpointError


class FusedExperts:
    """`PREFIX.gate_up_proj` and `PREFIX.down_proj`, read expert by expert as [out, in].

    Current checkpoints store [E, 2I, H] and [E, H, I], older ones [E, H, 2I] and [E, I, H]. Two tensors tell which:
    gate_up is ambiguous only where H = 2I, and down only where H = I, never both.
    """

    def __init__(self, checkpoint: Checkpoint, prefix: str, config: TextConfig) -> None:
        """Check the shapes of both tensors now.

        Args:
            prefix: such as `model.language_model.layers.0.mlp.experts`.

        Raises:
            CheckpointError: a tensor is missing, or its shape fits neither orientation, or not that of the other.
        """
        self._checkpoint = checkpoint
        self.gate_up_name, self.down_name = f"{prefix}.gate_up_proj", f"{prefix}.down_proj"
        self.count, hidden, inner = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_shape, self.down_shape = (2 * inner, hidden), (hidden, inner)
        if hidden != inner:
            self.transposed = tuple(checkpoint.shape(self.down_name))[1:] == (inner, hidden)
        else:
            self.transposed = tuple(checkpoint.shape(self.gate_up_name))[1:] == (hidden, 2 * inner)
        for name, shape in ((self.gate_up_name, self.gate_up_shape), (self.down_name, self.down_shape)):
            stored = (self.count, *(reversed(shape) if self.transposed else shape))
            if tuple(checkpoint.shape(name)) != stored:
                raise CheckpointError(f"{checkpoint.folder}: {name} has shape {list(checkpoint.shape(name))}, but "
                                      f"config.json implies {list(stored)}")

    def gate_up(self, expert: int) -> np.ndarray:
        """[2I, H]: the rows of the gate, then those of the up projection; a view of the file."""
        return self._read(self.gate_up_name, expert)

    def down(self, expert: int) -> np.ndarray:
        """[H, I]; a view of the file."""
        return self._read(self.down_name, expert)

    def _read(self, name: str, expert: int) -> np.ndarray:
        stored = self._checkpoint.read_slice(name, expert)
        return stored.T if self.transposed else stored
