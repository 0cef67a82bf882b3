"""`engines/decoder/cuda.json`: what the decoder's engine for a GPU is, and what it needs of its memory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.record_file import read_record
from qwen3vl.config import ModelConfig

RECORD_FILE = "cuda.json"
# The library of plugins/decoder_kernels, in the folder of an engine that was built with it.
LIBRARY_FILE = "libdecoder_operators.so"
# The engine that finds the most likely tokens where the decoder does not put them out, in the decoder's folder.
CANDIDATES_FOLDER = "candidates"
# Tokens found for each sequence; requests with a larger top_k, or none, read all logits.
CANDIDATES = 64
# Names of outputs: of the K largest logits, of their ids, and of the token that is chosen of them.
BEST, IDS, CHOSEN = "best", "ids", "chosen"
# Names of inputs: of how to choose, and of what the step before chose.
DRAWS, CHOSEN_BEFORE = "draws", "chosen_before"
# Numbers of a row of draws: temperature, top_k, top_p and a random number from 0 to 1.
DRAW_NUMBERS = 4
FORMAT = 3
# Element types by ONNX's numbers, and their bytes.
ELEMENT_TYPES = {"fp32": (1, 4), "fp16": (10, 2), "bf16": (16, 2)}
# What an engine takes beside weights, cache and tables: CUDA's context and libraries, activations of a chunk of 2048
# tokens, captured graphs. An allowance, not a measurement.
OTHER_BYTES = 2 << 30


@dataclass(frozen=True)
class CudaDecoderRecord:
    """A decoder's engine for ONNX Runtime on a GPU.

    Attributes:
        precision: element type of activations and of the cache, a key of `ELEMENT_TYPES`.
        kernels: SHA-256 of the library of plugins/decoder_kernels beside the engine; None without it.
        weight_bytes: of all weights.
        leading_rows: rows of zeros that a table of visual rows begins with.
    """

    precision: str
    kernels: str | None
    weight_bytes: int
    leading_rows: int

    def save(self, folder: Path) -> None:
        (folder / RECORD_FILE).write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> CudaDecoderRecord:
        """Read the record of an engine's folder.

        Raises:
            ArtifactError: there is none, or another version of this toolkit wrote it.
        """
        return cls(**read_record(folder / RECORD_FILE, FORMAT, "`qwen3vl build --target cuda` on the build folder"))

    @property
    def onnx_type(self) -> int:
        return ELEMENT_TYPES[self.precision][0]

    @property
    def element_bytes(self) -> int:
        return ELEMENT_TYPES[self.precision][1]

    def cache_bytes(self, config: ModelConfig, slots: int, capacity: int) -> int:
        """Of keys and values of `slots` sequences of `capacity` tokens."""
        text = config.text
        token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * self.element_bytes
        return slots * capacity * token

    def needed_bytes(self, config: ModelConfig, slots: int, capacity: int) -> int:
        """GPU memory that the decoder takes; `OTHER_BYTES` of it are an allowance."""
        logits = 4 * slots * config.text.vocab_size
        return self.weight_bytes + self.cache_bytes(config, slots, capacity) + logits + OTHER_BYTES
