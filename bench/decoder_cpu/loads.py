"""What is timed, whoever runs it: steps of a batch over a past, and prompts."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Loads:
    """Attributes:
        batches: sequences of a decode step.
        past: tokens of each in the cache.
        prompts: lengths in tokens.
        steps, rounds: how often a step and a prompt are timed.
    """

    batches: tuple[int, ...] = (1, 4, 16)
    past: int = 512
    prompts: tuple[int, ...] = (512, 2048)
    steps: int = 60
    rounds: int = 3

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
        """One more token of each sequence, int32 [B], behind `past` ones, and get their logits."""
        raise NotImplementedError


def measure(name: str, runner: Runner, loads: Loads) -> dict:
    """Seconds (medians), and the process's memory in bytes. Prompts come first: they touch all experts."""
    random = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return random.integers(0, runner.vocab_size, count, dtype=np.int32)

    runner.prompt(tokens(min(loads.prompts)))
    prefill = {}
    for length in loads.prompts:
        prefill[str(length)] = _median(lambda length=length: runner.prompt(tokens(length)), loads.rounds)
        _show(f"{name}: prompt of {length}: {1e3 * prefill[str(length)]:.0f} ms")
    decode = {}
    for batch in loads.batches:
        runner.fill(batch, loads.past)
        for _ in range(3):
            runner.step(tokens(batch), loads.past)
        decode[str(batch)] = _median(lambda batch=batch: runner.step(tokens(batch), loads.past), loads.steps)
        _show(f"{name}: step of {batch}: {1e3 * decode[str(batch)]:.1f} ms")
    return {"prefill_seconds": prefill, "decode_seconds": decode, "memory": memory()}


def memory() -> dict[str, int]:
    """Of this process, in bytes: resident, of that private and mapped from files, and the largest there was."""
    names = {"VmRSS": "resident", "RssAnon": "private", "RssFile": "mapped", "VmHWM": "peak"}
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {label: int(fields[name].split()[0]) * 1024 for name, label in names.items()}


def _median(work: Callable[[], None], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
