"""A build's decoder, as the server runs it: `python -m bench.decoder_cpu.engine BUILD` prints a measurement as JSON."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from bench.decoder_cpu.loads import Loads, Runner, measure, memory
from engines.onnxruntime.decoder import Decoder


class EngineRunner(Runner):
    """Prompts go through the engine in chunks of `chunk` tokens."""

    def __init__(self, build: Path, slots: int, capacity: int, chunk: int):
        self._decoder, self._chunk = Decoder(build / "engines", slots, capacity), chunk
        text = self._decoder.config.text
        self.vocab_size, self._no_rows = text.vocab_size, np.empty((0, text.hidden_size), np.float32)

    def prompt(self, token_ids: np.ndarray) -> None:
        for start in range(0, len(token_ids), self._chunk):
            part = token_ids[start : start + self._chunk]
            positions = np.broadcast_to(np.arange(start, start + len(part), dtype=np.int32), (3, len(part)))
            last = np.array([len(part) - 1] if start + len(part) == len(token_ids) else [], np.int32)
            self._decoder.prefill(0, part, positions, self._no_rows, start, last)

    def fill(self, batch: int, past: int) -> None:
        self.prompt(np.random.default_rng(1).integers(0, self.vocab_size, past, dtype=np.int32))
        for slot in range(1, batch):
            self._decoder.move_slot(0, slot, past)

    def step(self, token_ids: np.ndarray, past: int) -> None:
        batch = len(token_ids)
        self._decoder.decode(token_ids, np.full(batch, past, np.int32), np.full(batch, past + 1, np.int32))


def measure_engine(build: Path, loads: Loads, chunk: int) -> dict:
    started = time.perf_counter()
    runner = EngineRunner(build, max(loads.batches), loads.capacity, chunk)
    loaded = {"load_seconds": time.perf_counter() - started, "memory_after_load": memory()}
    return {**loaded, **measure(build.name, runner, loads)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--loads", type=json.loads, default={}, help="fields of `Loads`, as JSON")
    parser.add_argument("--chunk", type=int, required=True)
    args = parser.parse_args()
    print(json.dumps(measure_engine(args.build, Loads(**args.loads), args.chunk)))


if __name__ == "__main__":
    main()
