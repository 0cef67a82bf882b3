"""`engines/trtllm/trtllm.json`: what the TensorRT-LLM engine beside it holds and needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.record_file import read_record
from engines.trtllm.sizes import EngineSizes
from export.trtllm.parallel import Parallelism

FOLDER = "engines/trtllm"
RECORD_FILE = "trtllm.json"
FORMAT = 1


def engine_name(rank: int) -> str:
    """File name of a GPU's engine, as TensorRT-LLM has it."""
    return f"rank{rank}.engine"


@dataclass(frozen=True)
class TrtllmRecord:
    """A TensorRT-LLM engine of the decoder.

    Attributes:
        version: of TensorRT-LLM; no other version reads the engine.
        tensorrt: version of TensorRT.
        compute_capability: of the GPU that it was built on, such as "9.0"; it runs on no other.
        dtype: `bfloat16` or `float16`: activations, and what prompt tables have to be.
        parallelism: the division among GPUs, one engine file for each.
        sizes: what it holds at once.
        vocab_size: the first id that means a visual token.
        levels: D; each visual token has 1 + D rows in its request's prompt table.
        hidden_size: values of a row.
        rotary_dim: cosines and sines of one position in M-RoPE's table.
        plugin: file beside this one that must be loaded into every process before the engine; None if it needs none.
        context_logits: it can give logits of prompt tokens.
    """

    version: str
    tensorrt: str
    compute_capability: str
    dtype: str
    parallelism: Parallelism
    sizes: EngineSizes
    vocab_size: int
    levels: int
    hidden_size: int
    rotary_dim: int
    plugin: str | None
    context_logits: bool

    @property
    def rows_per_token(self) -> int:
        return 1 + self.levels

    @property
    def max_slots(self) -> int:
        """Requests that run at the same time: each pipeline stage works on a batch of its own."""
        return self.sizes.max_batch * self.parallelism.pp

    def to_dict(self) -> dict:
        return {"format": FORMAT, **asdict(self)}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> TrtllmRecord:
        """Read the record of an `engines/trtllm/` folder; it is written last, so a folder that has it is whole.

        Raises:
            ArtifactError: there is none, or another version of this toolkit wrote it.
        """
        values = read_record(folder / RECORD_FILE, FORMAT, "`qwen3vl build --target trtllm` on the build folder")
        return cls(**{**values, "parallelism": Parallelism(**values["parallelism"]),
                      "sizes": EngineSizes(**values["sizes"])})
