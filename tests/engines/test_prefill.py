"""The prefill policy on a simulated engine with a clock of its own: stalls, order, and that nobody starves."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.batching.prefill import ALONE, PrefillScheduler, PrefillSettings
from qwen3vl.errors import ArtifactError

SETTINGS = PrefillSettings()


@dataclass(eq=False)
class SimulatedPrompt:
    """A request: when it comes, its length, and how it fares.

    Attributes:
        answer: tokens to generate, the first of which the prompt's last chunk gives.
        ahead: prompt tokens that were there when it came, its own included.
        worked: prompt tokens that had been processed in all when it came, and when it was done.
    """

    at: float
    length: int
    answer: int
    remaining: int = 0
    ahead: int = 0
    worked: tuple[int, int] = (0, 0)
    first_token: float = 0.0


@dataclass
class Simulation:
    """An engine whose times are known, driven as the batcher drives the real one."""

    chunk_seconds: Callable[[int], float]
    step_seconds: float = 0.01
    slots: int = 8
    settings: PrefillSettings = SETTINGS
    now: float = 0.0
    worked: int = 0
    stalls: list[float] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    done: list[SimulatedPrompt] = field(default_factory=list)

    def run(self, prompts: list[SimulatedPrompt]) -> None:
        self._coming = sorted(prompts, key=lambda prompt: prompt.at)
        self.scheduler: PrefillScheduler[SimulatedPrompt] = PrefillScheduler(self.settings, self.slots)
        self._running: dict[SimulatedPrompt, int] = {}
        self._turn = 0.0
        while len(self.done) < len(prompts):
            if not (self._running or self.scheduler.prompts):
                self.now = max(self.now, self._coming[0].at)
            self._arrive()
            began = self.now
            self._prefill()
            self._decode()
            self._turn = self.now - began

    def _arrive(self) -> None:
        while self._coming and self._coming[0].at <= self.now:
            prompt = self._coming.pop(0)
            prompt.remaining = prompt.length
            self.scheduler.add(prompt)
            prompt.ahead = sum(other.remaining for other in self.scheduler.prompts)
            prompt.worked = (self.worked, 0)

    def _prefill(self) -> None:
        began, streams = self.now, bool(self._running)
        self.scheduler.begin_turn(self.step_seconds if streams else 0.0, self._turn)
        while chunk := self.scheduler.next_chunk(len(self._running)):
            prompt, seconds = chunk.prompt, self.chunk_seconds(chunk.tokens)
            assert min(self.settings.min_tokens, prompt.remaining) <= chunk.tokens <= prompt.remaining
            assert len(self.scheduler.started) + len(self._running) <= self.slots
            self.now += seconds
            self.worked += chunk.tokens
            self.chunks.append(chunk.tokens)
            prompt.remaining -= chunk.tokens
            self.scheduler.ran(chunk, seconds)
            if not prompt.remaining:
                self.scheduler.remove(prompt)
                self._running[prompt] = prompt.answer - 1
                prompt.first_token, prompt.worked = self.now, (prompt.worked[0], self.worked)
            self._arrive()
        if streams:
            self.stalls.append(self.now - began)

    def _decode(self) -> None:
        self.now += self.step_seconds if self._running else 0
        for prompt, left in list(self._running.items()):
            if left > 0:
                self._running[prompt] = left - 1
            else:
                del self._running[prompt]
                self.done.append(prompt)


def line(fixed: float, per_token: float) -> Callable[[int], float]:
    return lambda tokens: fixed + per_token * tokens


prompts = st.lists(st.builds(SimulatedPrompt, at=st.floats(0, 5), length=st.integers(1, 3000),
                             answer=st.integers(1, 40)), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(prompts, st.floats(1e-4, 0.2), st.floats(1e-5, 3e-3), st.floats(0, 0.1), st.integers(1, 9))
def test_streams_stall_no_longer_than_they_may(requests, fixed: float, per_token: float, step: float, slots: int):
    engine = Simulation(line(fixed, per_token), step, slots=slots)
    engine.run(requests)
    stall, shortest = SETTINGS.stall_seconds, engine.chunk_seconds(SETTINGS.min_tokens)
    half = 2 * fixed + step + per_token  # of the speed that prompts could have
    limit = max(shortest, half if shortest > stall else min(stall, max(stall - step, half)))
    assert max(engine.stalls, default=0) <= 1e-6 + limit


@pytest.mark.parametrize(("fixed", "step", "turn"), [
    (0, 0, 0.05), (0.005, 0.01, 0.05), (0.005, 0.02, 0.05),  # the stall time
    (0.01, 0.02, 0.06), (0, 0.03, 0.06),  # half of it for tokens
    (0.01, 0.04, 0.09), (0.02, 0.1, 0.15)])  # the stall time for chunks
def test_time_between_tokens_counts_the_step_as_long_as_prompts_keep_half_of_their_speed(fixed, step, turn):
    engine = Simulation(line(fixed, 1e-4), step)
    engine.run([SimulatedPrompt(0, 5, 2000), *(SimulatedPrompt(0.1 * i, 2900, 1) for i in range(8))])
    assert max(engine.stalls) + step == pytest.approx(turn, abs=2e-4)


@settings(max_examples=60, deadline=None)
@given(prompts, st.integers(1, 9))
def test_nobody_starves_and_everybody_is_served(requests, slots: int):
    engine = Simulation(line(0.005, 2e-4), slots=slots)
    engine.run(requests)
    # What the oldest got before may be made up for, and one that passed may have to be finished before the next in
    # line gets a slot.
    slack = 2 * SETTINGS.max_tokens + max(prompt.length for prompt in requests)
    for prompt in requests:
        assert prompt.worked[1] - prompt.worked[0] <= 2 * prompt.ahead + slack
    assert not engine.scheduler.prompts and not engine.scheduler.started


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20, unique=True), st.integers(1, 9))
def test_prompts_of_equal_length_are_served_in_order(times: list[float], slots: int):
    requests = [SimulatedPrompt(at, 700, 5) for at in times]
    Simulation(line(0.005, 2e-4), slots=slots).run(requests)
    firsts = [prompt.first_token for prompt in sorted(requests, key=lambda prompt: prompt.at)]
    assert firsts == sorted(firsts)


def test_short_prompts_without_end_take_half_of_the_work_from_a_long_one_and_no_more():
    long = SimulatedPrompt(0, 8000, 1)
    # They come as fast as the engine could process them, were it for nothing else.
    shorts = [SimulatedPrompt(0.1 * i, 100, 1) for i in range(400)]
    engine = Simulation(line(0, 1e-3), step_seconds=0)
    engine.run([long, *shorts])
    assert 1.7 * 8 < long.first_token < 2.1 * 8
    # While there are few, each waits for about one chunk of the long one and its own work.
    assert max(prompt.first_token - prompt.at for prompt in shorts[:5]) < 2 * ALONE * SETTINGS.stall_seconds


def test_a_short_prompt_passes_a_long_one():
    long, short = SimulatedPrompt(0, 16000, 1), SimulatedPrompt(1.0, 50, 1)
    running = SimulatedPrompt(0, 10, 10_000)
    Simulation(line(0.01, 1e-3)).run([running, long, short])
    assert short.first_token < 1.3
    assert long.first_token > 16


def test_chunks_are_longer_while_nothing_else_runs():
    alone, beside = (Simulation(line(0.001, 1e-3), step_seconds=0.004) for _ in range(2))
    alone.run([SimulatedPrompt(0, 3000, 1)])
    beside.run([SimulatedPrompt(0, 5, 1000), SimulatedPrompt(0.001, 3000, 1)])
    assert max(alone.chunks) == 499  # 0.5 s
    assert max(beside.chunks) == 45  # 0.05 s, the step among them


def test_where_the_stall_time_cannot_be_kept_half_of_the_time_is_for_the_tokens_of_prompts():
    engine = Simulation(line(0.3, 0.004), step_seconds=0.2)
    engine.run([SimulatedPrompt(0, 5, 1000), *(SimulatedPrompt(i, 1000, 1) for i in range(5))])
    assert sorted(engine.chunks)[len(engine.chunks) // 2] == pytest.approx(125, abs=1)


def contended_turns(slower: float) -> list[float]:
    """Times of turns with chunks, every other of which takes so many times as long, as if images were encoded."""
    random, step = Random(1), 0.01
    engine = Simulation(lambda tokens: (0.005 + 1e-4 * tokens) * (slower if random.random() < 0.5 else 1), step)
    engine.run([SimulatedPrompt(0, 5, 4000), *(SimulatedPrompt(0.1 + 0.2 * i, 1500, 1) for i in range(100))])
    turns = [stall + step for stall in engine.stalls if stall]
    assert len(turns) > 300
    return turns[20:]


def test_what_others_take_of_the_machine_is_allowed_for():
    turns = contended_turns(1.2)
    assert sum(turn > SETTINGS.stall_seconds + 1e-6 for turn in turns) < 0.08 * len(turns)
    # And no more: nearly all of the time is used.
    assert statistics.median(turns) > 0.8 * SETTINGS.stall_seconds


def test_where_others_take_much_prompts_do_not_pay_for_all_of_it():
    assert statistics.mean(contended_turns(3)) > 0.85 * SETTINGS.stall_seconds


def test_short_prompts_share_a_turn():
    running = SimulatedPrompt(0, 10, 200)
    shorts = [SimulatedPrompt(0.5, 10, 1) for _ in range(6)]
    engine = Simulation(line(0.001, 1e-3), slots=12)
    engine.run([running, *shorts])
    assert max(prompt.first_token for prompt in shorts) - min(prompt.first_token for prompt in shorts) < 0.1
    assert sum(stall > 0 for stall in engine.stalls) == 2  # three of 11 ms and a step of 10, twice


def test_no_more_than_the_longest_chunk_is_processed_at_once():
    engine = Simulation(line(0, 1e-6))
    engine.run([SimulatedPrompt(0, 10_000, 1)])
    assert max(engine.chunks) == SETTINGS.max_tokens


@pytest.mark.parametrize("wrong", [{"stall_seconds": 0}, {"stall_seconds": float("nan")}, {"min_tokens": 0},
                                   {"min_tokens": 3000}])
def test_settings_that_make_no_sense_are_refused(wrong: dict):
    with pytest.raises(ArtifactError, match=next(iter(wrong))):
        PrefillSettings(**wrong)
