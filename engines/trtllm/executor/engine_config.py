"""`engines/decoder/config.json`, which TensorRT-LLM writes beside its engines: what they take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qwen3vl.errors import ArtifactError

CONFIG_FILE = "config.json"
DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class TrtllmEngine:
    """A decoder's engines, one for each GPU.

    Attributes:
        folder: where they are.
        version: of the TensorRT-LLM that built them; no other reads them.
        dtype: of the prompt table, the model's: "bfloat16" or "float16".
        vocab_size, hidden_size: the model's.
        max_batch_size: requests in one batch.
        max_input_len: prompt tokens of one request.
        max_seq_len: tokens of one request, prompt and answer together.
        max_prompt_rows: rows that one request may have in the prompt table: the table's size divided by the batch
            (cpp/tensorrt_llm/batch_manager/promptTuningBuffers.cpp).
        max_positions, rotary_dim: size of the rotary table that each request brings.
        tp, pp: GPUs that share a layer; pipeline stages.
    """

    folder: Path
    version: str
    dtype: str
    vocab_size: int
    hidden_size: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_prompt_rows: int
    max_positions: int
    rotary_dim: int
    tp: int
    pp: int

    @property
    def world_size(self) -> int:
        return self.tp * self.pp

    @property
    def max_requests(self) -> int:
        """Requests that run at the same time: each pipeline stage works on a batch of its own."""
        return self.max_batch_size * self.pp

    @property
    def files(self) -> list[Path]:
        return [self.folder / f"rank{rank}.engine" for rank in range(self.world_size)]

    @classmethod
    def load(cls, folder: Path) -> TrtllmEngine:
        """Read the configuration of an engine folder.

        Raises:
            ArtifactError: it is missing or not TensorRT-LLM's, or the engines cannot serve this project's requests.
        """
        path = folder / CONFIG_FILE
        try:
            config = json.loads(path.read_text())
            model, build, mapping = (config["pretrained_config"], config["build_config"],
                                     config["pretrained_config"]["mapping"])
            engine = cls(
                folder, str(config["version"]), model["dtype"], model["vocab_size"], model["hidden_size"],
                build["max_batch_size"], build["max_input_len"], build["max_seq_len"],
                build["max_prompt_embedding_table_size"] // build["max_batch_size"],
                model["max_position_embeddings"], model["rotary_embedding_dim"], mapping["tp_size"],
                mapping["pp_size"])
            use_mrope = build["use_mrope"]
        except FileNotFoundError:
            raise ArtifactError(f"{path} does not exist: run `qwen3vl build --target trtllm` first") from None
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise ArtifactError(f"{path} is not the configuration of a TensorRT-LLM engine ({error!r}): run "
                                "`qwen3vl build --target trtllm` again") from None
        if engine.dtype not in DTYPES or not use_mrope:
            raise ArtifactError(f"{path}: dtype is {engine.dtype!r} and use_mrope {use_mrope!r}, expected "
                                f"{' or '.join(DTYPES)}, and true: run `qwen3vl build --target trtllm` again")
        return engine


def is_trtllm(engine_dir: Path) -> bool:
    """Whether the decoder in the `engines/` folder of a build is TensorRT-LLM's."""
    return (engine_dir / "decoder" / CONFIG_FILE).is_file()
