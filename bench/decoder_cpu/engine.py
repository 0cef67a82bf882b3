"""Builds' decoders, as the server runs them: `python -m bench.decoder_cpu.engine BUILD...` prints times as JSON."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np

from bench.decoder_cpu.loads import Loads, Runner, measure
from bench.decoder_cpu.scratch import text_config
from engines.onnxruntime.decoder import Decoder

# Tokens of a prompt in one call.
CHUNK = 512


class EngineRunner(Runner):
    """Prompts go through the engine in chunks of `chunk` tokens."""

    def __init__(self, build: Path, slots: int, capacity: int, chunk: int = CHUNK):
        self._decoder, self._chunk = Decoder(build / "engines", slots, capacity), chunk
        text = self._decoder.config.text
        self.vocab_size, self._no_rows = text.vocab_size, np.empty((0, text.hidden_size), np.float32)
        self._filled = (0, 0)  # slots and tokens

    def prompt(self, token_ids: np.ndarray) -> None:
        self._filled = (0, 0)
        for start in range(0, len(token_ids), self._chunk):
            part = token_ids[start : start + self._chunk]
            positions = np.broadcast_to(np.arange(start, start + len(part), dtype=np.int32), (3, len(part)))
            last = np.array([len(part) - 1] if start + len(part) == len(token_ids) else [], np.int32)
            self._decoder.prefill(0, part, positions, self._no_rows, start, last)

    def fill(self, batch: int, past: int) -> None:
        slots, tokens = self._filled
        if tokens != past:
            self.prompt(np.random.default_rng(1).integers(0, self.vocab_size, past, dtype=np.int32))
            slots = 1
        for slot in range(slots, batch):
            self._decoder.move_slot(0, slot, past)
        self._filled = (max(slots, batch), past)

    def step(self, token_ids: np.ndarray, past: int) -> None:
        batch = len(token_ids)
        self._decoder.decode(token_ids, np.full(batch, past, np.int32), np.full(batch, past + 1, np.int32))


def measure_engines(builds: list[Path], loads: Loads, chunk: int = CHUNK) -> dict:
    """`measure` of builds that differ in depth alone, and the text half of their configuration as `model`."""
    configs = [text_config(build) for build in builds]
    runners = {config["num_hidden_layers"]: partial(EngineRunner, build, max(loads.batches), loads.capacity, chunk)
               for build, config in zip(builds, configs, strict=True)}
    return {"model": configs[-1], "chunk": chunk, **measure(", ".join(build.name for build in builds), runners, loads)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("builds", type=Path, nargs="+")
    parser.add_argument("--loads", type=json.loads, default={}, help="fields of `Loads`, as JSON")
    parser.add_argument("--chunk", type=int, default=CHUNK)
    args = parser.parse_args()
    print(json.dumps(measure_engines(args.builds, Loads(**args.loads), args.chunk)))


if __name__ == "__main__":
    main()
