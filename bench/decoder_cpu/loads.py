"""What is timed, whoever runs it: steps of a batch over a past, and prompts, of models of several depths by turns."""

from __future__ import annotations

import copy
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.decoder_cpu.floor import MemoryReader
from bench.decoder_cpu.memory import memory


@dataclass(frozen=True)
class Loads:
    """Attributes:
        batches: sequences of a decode step, ascending.
        past: tokens of each in the cache.
        prompts: lengths in tokens, ascending.
        rounds: how often steps are timed, all depths in each.
        prompt_rounds: in how many of these, the first ones, prompts are timed too, once each.
        steps: how often a step is timed in a round; the median counts.
    """

    batches: tuple[int, ...] = (1, 4, 16)
    past: int = 512
    prompts: tuple[int, ...] = (512, 2048)
    rounds: int = 8
    prompt_rounds: int = 3
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

    How fast memory is read may change from one second to the next on a machine that shares it with others; so it is
    measured between any two steps.

    Args:
        runners: by layers, what loads them.

    Returns:
        `prefill_seconds`, `decode_seconds` and `decode_bandwidth` (bytes read per second), by layers and by length or
        batch a list with a value for each round; `major_faults`, how often these had to wait for the disk;
        `load_seconds` by layers; `memory` by layers and by what was done last, in this order: models loaded before are
        still there. `memory_before` is that of the process itself.
    """
    random = np.random.default_rng(0)
    loaded: dict[int, Runner] = {}
    load_seconds, used, before = {}, {}, memory()
    for layers, load in runners.items():
        began = time.perf_counter()
        loaded[layers] = load()
        load_seconds[str(layers)] = time.perf_counter() - began
        _show(f"{name}, {layers} layers: loaded in {load_seconds[str(layers)]:.1f} s")
        used[str(layers)] = {"loading": memory(), **_once(loaded[layers], loads, random)}
    times = Times(MemoryReader(), loads, random)
    prefill: dict = {str(layers): {str(length): [] for length in loads.prompts} for layers in loaded}
    decode: dict = {str(layers): {str(batch): [] for batch in loads.batches} for layers in loaded}
    bandwidth = copy.deepcopy(decode)
    faults = _major_faults()
    for number in range(loads.rounds):
        for layers, runner in loaded.items():
            for length in loads.prompts if number < loads.prompt_rounds else ():
                prefill[str(layers)][str(length)].append(times.prompt(runner, length))
            runner.fill(max(loads.batches), loads.past)
            for batch in loads.batches:
                seconds, read = times.steps(runner, batch)
                decode[str(layers)][str(batch)].append(seconds)
                bandwidth[str(layers)][str(batch)].append(read)
        _show(f"{name}: {_last(prefill, 1e3, 'ms')}; {_last(decode, 1e3, 'ms')}; {_last(bandwidth, 1e-9, 'GB/s')}")
    return {"prefill_seconds": prefill, "decode_seconds": decode, "decode_bandwidth": bandwidth,
            "major_faults": _major_faults() - faults, "load_seconds": load_seconds, "memory_before": before,
            "memory": used}


def _major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _once(runner: Runner, loads: Loads, random: np.random.Generator) -> dict:
    """Everything once, steps a few times, which touches all pages there are to touch; memory after each."""
    used = {}
    for length in loads.prompts:
        runner.prompt(_tokens(runner, length, random))
        used[f"prompt of {length}"] = memory()
    for batch in loads.batches:
        runner.fill(batch, loads.past)
        for _ in range(loads.steps):
            runner.step(_tokens(runner, batch, random), loads.past)
        used[f"steps of {batch}"] = memory()
    return used


@dataclass(frozen=True)
class Times:
    """Times single loads."""

    reader: MemoryReader
    loads: Loads
    random: np.random.Generator

    def prompt(self, runner: Runner, length: int) -> float:
        """Seconds of a prompt."""
        token_ids = _tokens(runner, length, self.random)
        started = time.perf_counter()
        runner.prompt(token_ids)
        return time.perf_counter() - started

    def steps(self, runner: Runner, batch: int) -> tuple[float, float]:
        """Seconds of a step, and bytes per second that were read from memory between steps; medians.

        The first step warms up and does not count.
        """
        taken, read = [], []
        for _ in range(1 + self.loads.steps):
            token_ids = _tokens(runner, batch, self.random)
            started = time.perf_counter()
            runner.step(token_ids, self.loads.past)
            taken.append(time.perf_counter() - started)
            read.append(self.reader.read())
        return statistics.median(taken[1:]), statistics.median(read)


def _tokens(runner: Runner, count: int, random: np.random.Generator) -> np.ndarray:
    return random.integers(0, runner.vocab_size, count, dtype=np.int32)


def _last(measured: dict, factor: float, unit: str) -> str:
    return ", ".join(f"{load} with {layers} layers {factor * values[-1]:.1f} {unit}"
                     for layers, each in measured.items() for load, values in each.items())


def _show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
