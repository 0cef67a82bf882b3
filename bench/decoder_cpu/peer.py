"""The peer: `transformers` on a checkpoint. `python -m bench.decoder_cpu.peer CHECKPOINT --dtype bf16` prints JSON."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Qwen3VLMoeForConditionalGeneration
from transformers.cache_utils import DynamicCache

from bench.decoder_cpu.loads import Loads, Runner, measure, memory

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class TransformersRunner(Runner):
    """The language half of the reference implementation as it comes, with a growing cache."""

    def __init__(self, checkpoint: Path, dtype: str):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._model = Qwen3VLMoeForConditionalGeneration.from_pretrained(checkpoint, dtype=DTYPES[dtype]).eval()
        self.vocab_size = self._model.config.text_config.vocab_size
        self._filled: DynamicCache | None = None

    @torch.inference_mode()
    def prompt(self, token_ids: np.ndarray) -> None:
        self._run(torch.from_numpy(token_ids)[None].long(), DynamicCache(), 0)

    @torch.inference_mode()
    def fill(self, batch: int, past: int) -> None:
        ids = np.random.default_rng(1).integers(0, self.vocab_size, (1, past))
        self._filled = DynamicCache()
        self._run(torch.from_numpy(ids), self._filled, 0)
        self._filled.batch_repeat_interleave(batch)

    @torch.inference_mode()
    def step(self, token_ids: np.ndarray, past: int) -> None:
        self._run(torch.from_numpy(token_ids)[:, None].long(), self._filled, past)
        self._filled.crop(past)

    def _run(self, ids: torch.Tensor, cache: DynamicCache, past: int) -> None:
        positions = torch.arange(past, past + ids.shape[1]).expand(3, *ids.shape)
        self._model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)


def measure_peer(checkpoint: Path, dtype: str, loads: Loads) -> dict:
    started = time.perf_counter()
    runner = TransformersRunner(checkpoint, dtype)
    loaded = {"load_seconds": time.perf_counter() - started, "memory_after_load": memory()}
    return {**loaded, **measure(f"transformers {dtype}", runner, loads)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--loads", type=json.loads, default={}, help="fields of `Loads`, as JSON")
    parser.add_argument("--dtype", choices=list(DTYPES), required=True)
    args = parser.parse_args()
    print(json.dumps(measure_peer(args.checkpoint, args.dtype, Loads(**args.loads))))


if __name__ == "__main__":
    main()
