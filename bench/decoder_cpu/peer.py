"""The peer: `transformers` on a checkpoint. `python -m bench.decoder_cpu.peer CHECKPOINT --dtype bf16` prints JSON."""

from __future__ import annotations

import argparse
import copy
import json
import os
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Qwen3VLMoeForConditionalGeneration
from transformers.cache_utils import DynamicCache

from bench.decoder_cpu.loads import Loads, Runner, measure
from bench.decoder_cpu.overlapping_checkpoint import INPUT_NORM

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class TransformersRunner(Runner):
    """The language half of the reference implementation as it comes, with a growing cache.

    Args:
        model: may have more layers than are run.
        layers: how many are run, the first ones.
    """

    def __init__(self, model: Qwen3VLMoeForConditionalGeneration, layers: int):
        self._model, self._text = model, model.model.language_model
        self._layers = self._text.layers[:layers]
        self.vocab_size = model.config.text_config.vocab_size
        self._prompt = DynamicCache()
        self._filled: tuple[int, DynamicCache] = (0, self._prompt)

    @torch.inference_mode()
    def prompt(self, token_ids: np.ndarray) -> None:
        self._run(torch.from_numpy(token_ids)[None].long(), DynamicCache(), 0)

    @torch.inference_mode()
    def fill(self, batch: int, past: int) -> None:
        if self._prompt.get_seq_length() == past:
            return
        ids = np.random.default_rng(1).integers(0, self.vocab_size, (1, past))
        self._prompt = DynamicCache()
        self._run(torch.from_numpy(ids), self._prompt, 0)
        self._filled = (0, self._prompt)

    @torch.inference_mode()
    def step(self, token_ids: np.ndarray, past: int) -> None:
        batch = len(token_ids)
        if self._filled[0] != batch:
            self._filled = (batch, copy.deepcopy(self._prompt))
            self._filled[1].batch_repeat_interleave(batch)
        self._run(torch.from_numpy(token_ids)[:, None].long(), self._filled[1], past)
        self._filled[1].crop(past)

    def _run(self, ids: torch.Tensor, cache: DynamicCache, past: int) -> None:
        self._text.layers = self._layers
        positions = torch.arange(past, past + ids.shape[1]).expand(3, *ids.shape)
        self._model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)


def measure_peer(checkpoint: Path, dtype: str, depths: list[int], loads: Loads) -> dict:
    """`measure` of a checkpoint's first layers, as many as `depths` names; all are loaded, once."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = cache(lambda: _load(checkpoint, dtype))
    runners = {layers: partial(lambda layers: TransformersRunner(model(), layers), layers) for layers in depths}
    return measure(f"transformers {dtype}", runners, loads)


def _load(checkpoint: Path, dtype: str) -> Qwen3VLMoeForConditionalGeneration:
    model = Qwen3VLMoeForConditionalGeneration.from_pretrained(checkpoint, dtype=DTYPES[dtype]).eval()
    for layer in model.model.language_model.layers:
        torch.nn.init.constant_(layer.input_layernorm.weight, INPUT_NORM)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--loads", type=json.loads, default={}, help="fields of `Loads`, as JSON")
    parser.add_argument("--dtype", choices=list(DTYPES), required=True)
    parser.add_argument("--depths", type=int, nargs="+", required=True, help="layers to run")
    args = parser.parse_args()
    print(json.dumps(measure_peer(args.checkpoint, args.dtype, args.depths, Loads(**args.loads))))


if __name__ == "__main__":
    main()
