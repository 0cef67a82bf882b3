"""The rotary table that each request brings: M-RoPE as the attention kernels of TensorRT-LLM read it."""

from __future__ import annotations

import numpy as np

from qwen3vl.config import TextConfig
from qwen3vl.rope import mrope_axes, text_frequencies


class RotaryTables:
    """Makes `mrope_rotary_cos_sin` for requests.

    A row for each token of the sequence: cosine and sine of each frequency, next to each other, where frequency i turns
    elements i and i + dim / 2 of a head (neox). Rows are looked up by a token's index in the sequence, whatever its
    three positions are, so that the interleaved axes of Qwen3-VL fit as well as any others. The runtime takes a flat
    float32 tensor of exactly max_positions * rotary_dim values
    (cpp/tensorrt_llm/batch_manager/runtimeBuffers.cpp; the layout in
    triton_backend/all_models/multimodal/multimodal_encoders/1/multimodal_utils.py).

    Args:
        config: the decoder's.
        length: rows of a table, the engine's max_position_embeddings.
    """

    def __init__(self, config: TextConfig, length: int):
        self.length, self._axes = length, mrope_axes(config)
        angles = np.arange(length, dtype=np.float32)[:, None] * text_frequencies(config)
        self._by_position = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        self._frequency = np.arange(len(self._axes))

    def table(self, position_ids: np.ndarray, rope_delta: int) -> np.ndarray:
        """The table of one request.

        A request that is paused comes back with its answer so far as a part of its prompt: so the rows behind the
        prompt are those of generated tokens.

        Args:
            position_ids: int32 [3, S], of the prompt.
            rope_delta: what to add to a generated token's index to get its position.

        Returns:
            float32 [length * dim].
        """
        prompt = position_ids.shape[1]
        generated = np.clip(np.arange(prompt, self.length) + rope_delta, 0, self.length - 1)
        positions = np.concatenate([position_ids, np.broadcast_to(generated, (3, len(generated)))], axis=1)
        return self._by_position[positions[self._axes].T, self._frequency].reshape(-1)
