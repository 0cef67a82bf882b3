"""Chunk lengths from measured times: right for what the model fits, careful for what it does not."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.batching.chunk_time import ChunkTime

times = st.floats(1e-5, 1.0)


@settings(deadline=None)
@given(fixed=times, per_token=st.floats(1e-6, 1e-2), lengths=st.lists(st.integers(1, 4096), min_size=2, max_size=40))
def test_times_of_a_line_are_met_exactly(fixed: float, per_token: float, lengths: list[int]):
    time = ChunkTime(32)
    for tokens in lengths:
        time.observe(tokens, fixed + per_token * tokens)
    if max(lengths[-16:]) > 1.5 * min(lengths[-16:]):
        assert time.seconds(777) == pytest.approx(fixed + per_token * 777, rel=1e-3)


@settings(deadline=None)
@given(tokens=st.integers(1, 4096), seconds=times, budget=times)
def test_one_measurement_is_extended_in_proportion_and_not_far(tokens: int, seconds: float, budget: float):
    time = ChunkTime(32)
    assert time.tokens_within(budget) == 32
    time.observe(tokens, seconds)
    assert time.tokens_within(budget) == pytest.approx(min(2 * tokens, tokens * budget / seconds), abs=1.01)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(0, 10)), min_size=1, max_size=40), st.floats(-1, 10))
def test_whatever_is_measured_gives_a_usable_length(chunks: list[tuple[int, float]], budget: float):
    time = ChunkTime(32)
    for tokens, seconds in chunks:
        time.observe(tokens, seconds)
    assert 0 <= time.tokens_within(budget) <= 2 * max(tokens for tokens, _ in chunks[-16:])
    assert 0 <= time.seconds(1) <= time.seconds(100) < math.inf


def test_chunks_of_one_length_are_not_read_as_a_line():
    time = ChunkTime(32)
    for noise in (0.003, -0.002, 0.001) * 10:
        time.observe(64, 0.1 + noise)
        assert time.even_tokens(0.0) == 0
        assert time.seconds(128) == pytest.approx(2 * time.seconds(64))


def test_even_chunks_are_those_with_as_much_of_their_own_as_of_fixed_cost():
    time = ChunkTime(32)
    assert time.even_tokens(0.1) == 0
    for tokens in (100, 200, 400):
        time.observe(tokens, 0.3 + 0.001 * tokens)
    assert time.even_tokens(0.0) == pytest.approx(300, abs=1)
    assert time.even_tokens(0.2) == pytest.approx(500, abs=1)
    assert time.even_tokens(2.0) == 800


def test_a_machine_that_gets_slower_or_faster_is_followed_within_a_few_chunks():
    time = ChunkTime(32)
    for speed in (1, 4, 1 / 2):
        for _ in range(12):
            tokens = max(1, time.tokens_within(0.05))
            time.observe(tokens, speed * (0.01 + 1e-4 * tokens))
        assert speed * (0.01 + 1e-4 * time.tokens_within(0.05)) == pytest.approx(0.05, rel=0.25)


def test_noise_of_a_shared_machine_does_not_mislead():
    time, random_ = ChunkTime(32), random.Random(0)
    lengths = []
    for _ in range(200):
        tokens = max(16, time.tokens_within(0.05))
        time.observe(tokens, (0.01 + 1e-4 * tokens) * random_.lognormvariate(0, 0.2))
        lengths.append(tokens)
    # Without noise it would be 400.
    assert 250 < np.median(lengths[20:]) < 600
