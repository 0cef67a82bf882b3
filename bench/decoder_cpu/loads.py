"""What is timed, whoever runs it: steps of a batch over a past, and prompts, of models of several depths by turns."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.decoder_cpu.floor import read_bandwidth
from bench.decoder_cpu.memory import memory


@dataclass(frozen=True)
class Loads:
    """Attributes:
        batches: sequences of a decode step, ascending.
        past: tokens of each in the cache.
        prompts: lengths in tokens, ascending.
        rounds: how often everything is timed, all depths in each.
        steps: how often a step is timed in a round, of which the median counts; a prompt is timed once.
    """

    batches: tuple[int, ...] = (1, 4, 16)
    past: int = 512
    prompts: tuple[int, ...] = (512, 2048)
    rounds: int = 6
    steps: int = 12

    @property
    def capacity(self) -> int:
        return max(self.past + 1, *self.prompts)


class Runner:
    """Runs a decoder. Token ids are random at each step, so that they choose experts as different texts do."""

    vocab_size: int

    def prompt(self, token_ids: np.ndarray) -> None:
        """Run a prompt, int32 [S], from the beginning, and get the last token's logits."""
        raise NotImplementedError

    def fill(self, batch: int, past: int) -> None:
        """Have `past` tokens of `batch` sequences in the cache."""
        raise NotImplementedError

    def step(self, token_ids: np.ndarray, past: int) -> None:
        """One more token, int32 [B], behind `past` ones of each of the first B sequences filled, and their logits."""
        raise NotImplementedError


def measure(name: str, runners: dict[int, Callable[[], Runner]], loads: Loads) -> dict:
    """Load a model of each depth and time all by turns: whatever changes on the machine meanwhile meets all of them.

    Args:
        runners: by layers, what loads them.

    Returns:
        `prefill_seconds` and `decode_seconds`, by layers and by length or batch a list with a value for each round;
        `read_bytes_per_second`, one for each round; `load_seconds` by layers; `memory` by layers and by what was done
        last, in this order: models loaded before are still there. `memory_before` is that of the process itself.
    """
    work = Work(np.random.default_rng(0), loads)
    loaded: dict[int, Runner] = {}
    load_seconds, used, before = {}, {}, memory()
    for layers, load in runners.items():
        began = time.perf_counter()
        loaded[layers] = load()
        load_seconds[str(layers)] = time.perf_counter() - began
        _show(f"{name}, {layers} layers: loaded in {load_seconds[str(layers)]:.1f} s")
        used[str(layers)] = {"loading": memory(), **work.once(loaded[layers])}
    prefill: dict = {str(layers): {str(length): [] for length in loads.prompts} for layers in loaded}
    decode: dict = {str(layers): {str(batch): [] for batch in loads.batches} for layers in loaded}
    bandwidths = []
    for _ in range(loads.rounds):
        bandwidths.append(read_bandwidth())
        for layers, runner in loaded.items():
            for length in loads.prompts:
                prefill[str(layers)][str(length)].append(work.prompt(runner, length))
            runner.fill(max(loads.batches), loads.past)
            for batch in loads.batches:
                decode[str(layers)][str(batch)].append(work.steps(runner, batch))
        _show(f"{name}: {bandwidths[-1] / 1e9:.1f} GB/s; last times {_last(decode)} {_last(prefill)}")
    return {"prefill_seconds": prefill, "decode_seconds": decode, "read_bytes_per_second": bandwidths,
            "load_seconds": load_seconds, "memory_before": before, "memory": used}


@dataclass(frozen=True)
class Work:
    """Times single loads."""

    random: np.random.Generator
    loads: Loads

    def once(self, runner: Runner) -> dict:
        """Everything once, which touches all pages there are to touch; memory after each."""
        used = {}
        for length in self.loads.prompts:
            self.prompt(runner, length)
            used[f"prompt of {length}"] = memory()
        for batch in self.loads.batches:
            runner.fill(batch, self.loads.past)
            self.steps(runner, batch)
            used[f"steps of {batch}"] = memory()
        return used

    def prompt(self, runner: Runner, length: int) -> float:
        """Seconds of a prompt."""
        token_ids = self._tokens(runner, length)
        started = time.perf_counter()
        runner.prompt(token_ids)
        return time.perf_counter() - started

    def steps(self, runner: Runner, batch: int) -> float:
        """Seconds of a step, the median; the first, which is not counted, warms up."""
        taken = []
        for _ in range(1 + self.loads.steps):
            token_ids = self._tokens(runner, batch)
            started = time.perf_counter()
            runner.step(token_ids, self.loads.past)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken[1:])

    def _tokens(self, runner: Runner, count: int) -> np.ndarray:
        return self.random.integers(0, runner.vocab_size, count, dtype=np.int32)


def _last(seconds: dict) -> str:
    times = [(layers, load, values[-1]) for layers, each in seconds.items() for load, values in each.items()]
    return ", ".join(f"{load} with {layers} layers: {1e3 * value:.1f} ms" for layers, load, value in times)


def _show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
