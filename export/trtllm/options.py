"""What a TensorRT-LLM checkpoint is made for, and which models fit its format."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import ml_dtypes
import numpy as np

from export.trtllm.parallel import Parallelism
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError, CheckpointError
from qwen3vl.limits import Limits

DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
# TensorRT-LLM's names (quantization/mode.py) for weights kept as integers with one scale for each output.
WEIGHT_ONLY = {"int8": "W8A16", "int4": "W4A16"}
# What the ONNX export of the vision encoder calls the same type.
PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class TrtllmOptions:
    """Options of `qwen3vl export --format trtllm`.

    Attributes:
        parallelism: the division among GPUs.
        dtype: type of weights, activations and visual rows, a key of `DTYPES`.
        max_length: longest sequence in tokens, prompt and answer together. Every request brings a table of rotary
            cosines and sines of this length, so it is the deployment's length rather than the model's. None for the
            default of `Limits.total_tokens`, or the model's length where that is shorter.
        weight_only: a key of `WEIGHT_ONLY`, or None. The files hold `dtype` all the same: TensorRT-LLM quantises them
            when it builds the engine.
    """

    parallelism: Parallelism = field(default_factory=Parallelism)
    dtype: str = "bfloat16"
    max_length: int | None = None
    weight_only: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ArtifactError(f"--dtype is {self.dtype!r}, expected {' or '.join(DTYPES)}")
        if self.weight_only not in (None, *WEIGHT_ONLY):
            raise ArtifactError(f"--weight-only is {self.weight_only!r}, expected {' or '.join(WEIGHT_ONLY)}")
        if self.max_length is not None and self.max_length < 1:
            raise ArtifactError(f"--max-length is {self.max_length}, expected a number above 0")

    def to_dict(self) -> dict:
        return asdict(self)

    def length(self, config: ModelConfig) -> int:
        """`max_length` for this model, in tokens."""
        return self.max_length or min(Limits().total_tokens, config.text.max_position_embeddings)

    def check(self, config: ModelConfig) -> None:
        """Refuse models that TensorRT-LLM 1.2.1's Qwen decoder cannot express, and options that do not fit the model.

        Raises:
            CheckpointError: the decoder has layers without experts or biases in its attention.
            ArtifactError: an option does not fit the model's sizes.
        """
        text = config.text
        dense = [layer for layer in range(text.num_hidden_layers) if not text.is_sparse(layer)]
        if dense or text.num_experts < 2:
            # models/qwen/model.py makes every layer a mixture where there is more than one expert; it stores
            # mlp_only_layers and decoder_sparse_step and never reads them.
            raise CheckpointError(f"text_config has layers without experts ({dense or 'all'}; num_experts = "
                                  f"{text.num_experts}), which TensorRT-LLM 1.2.1 cannot express for this model: use "
                                  "`--format onnx`")
        if text.attention_bias:
            raise CheckpointError("text_config.attention_bias is True, but TensorRT-LLM 1.2.1's Qwen decoder has no "
                                  "bias in its output projection: use `--format onnx`")
        if self.length(config) > text.max_position_embeddings:
            raise ArtifactError(f"--max-length is {self.max_length}, expected at most max_position_embeddings = "
                                f"{text.max_position_embeddings}")
        self.parallelism.check(config)
