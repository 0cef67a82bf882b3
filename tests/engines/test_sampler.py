"""Sampling against the reference implementation's logits processors."""

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engines.batching.sampler import TOP_P_CANDIDATES, Sampler, largest
from qwen3vl.sampling import SamplingParams

VOCAB = 40


def reference_probabilities(params: SamplingParams, prompt: np.ndarray, logits: np.ndarray) -> np.ndarray:
    steps = LogitsProcessorList()
    if params.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    steps.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        steps.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(TopPLogitsWarper(params.top_p))
    processed = steps(torch.tensor(prompt)[None].long(), torch.tensor(logits)[None])
    return processed.softmax(-1)[0].numpy()


@pytest.mark.parametrize("values", [
    {}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 8, "top_p": 0.6}, {"repetition_penalty": 1.8},
    {"temperature": 0.5, "top_k": 6, "top_p": 0.9, "repetition_penalty": 0.7}], ids=str)
def test_draws_follow_the_reference_distribution(values: dict):
    params = SamplingParams(**{"temperature": 1.3, "seed": 1, **values})
    prompt = np.array([1, 2, 3, 3, VOCAB + 4], np.int32)  # the last is a visual token
    logits = np.random.default_rng(0).normal(0, 2, VOCAB).astype(np.float32)
    expected = reference_probabilities(params, prompt[:4], logits)

    sampler, counts, draws = Sampler(params, prompt, VOCAB), np.zeros(VOCAB), 4000
    for _ in range(draws):
        if sampler._seen is not None:  # draws of one step, not of consecutive ones: forget what was drawn
            sampler._seen[:] = False
            sampler._seen[[1, 2, 3]] = True
        counts[sampler.sample(logits)] += 1
    assert (counts[expected == 0] == 0).all()
    deviation = np.abs(counts / draws - expected)
    assert (deviation < 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9).all()


def test_greedy_takes_the_largest_and_penalises_what_was_said():
    logits = np.array([1.0, 3.0, 2.9, -1.0], np.float32)
    sampler = Sampler(SamplingParams(repetition_penalty=1.5), np.array([0], np.int32), 4)
    assert [sampler.sample(logits) for _ in range(3)] == [1, 2, 1]
    assert logits.tolist() == pytest.approx([1.0, 3.0, 2.9, -1.0])


def test_a_seed_repeats_and_none_does_not():
    logits, none = np.zeros(1000, np.float32), np.array([], np.int32)

    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), none, 1000)
        return [sampler.sample(logits) for _ in range(8)]

    assert draw(7) == draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_a_nucleus_wider_than_the_candidates_is_exact():
    size = 3 * TOP_P_CANDIDATES
    logits = np.linspace(0, 0.1, size, dtype=np.float32)
    params = SamplingParams(temperature=1.0, top_p=0.9, seed=0)
    expected = reference_probabilities(params, np.array([0]), logits)
    sampler = Sampler(params, np.array([], np.int32), size)
    drawn = {sampler.sample(logits) for _ in range(3000)}
    assert all(expected[token] > 0 for token in drawn)
    assert min(drawn) < size * 0.2 and max(drawn) > size * 0.99


@pytest.mark.parametrize("size", [1, 63, 64, 1000, 12_345])
@pytest.mark.parametrize("count", [1, 2, 20, 190, 20_000])
@pytest.mark.parametrize("levels", [3, 100_000])
def test_the_largest_logits_are_found(size: int, count: int, levels: int):
    logits = np.random.default_rng(size).integers(0, levels, size).astype(np.float32)  # with few levels, many are equal
    ids = largest(logits, count)
    assert len(set(ids.tolist())) == len(ids) == min(count, size)
    assert sorted(logits[ids]) == sorted(logits)[-count:]


def test_what_is_no_number_does_not_end_the_sampling_for_everybody():
    for share in (0.001, 0.5, 1):
        logits = np.zeros(10_000, np.float32)
        logits[:int(share * 10_000)] = np.nan
        assert len(largest(logits, 20)) == 20


class BestFirst:
    """A row whose best tokens can be had alone."""

    def __init__(self, logits: np.ndarray):
        self._logits, self.read = logits, []

    def likeliest(self) -> int:
        self.read.append(1)
        return int(self._logits.argmax())

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        self.read.append(count)
        ids = np.argsort(-self._logits, kind="stable")[:count]
        return ids, self._logits[ids]

    def all(self) -> np.ndarray:
        self.read.append(len(self._logits))
        return self._logits


@pytest.mark.parametrize(("values", "read"), [
    ({"temperature": 0}, 1), ({"top_k": 7}, 7), ({"top_k": 7, "top_p": 0.6}, 7), ({"top_p": 0.6}, VOCAB), ({}, VOCAB),
    ({"temperature": 0, "repetition_penalty": 1.5}, VOCAB), ({"top_k": 7, "repetition_penalty": 1.5}, VOCAB)], ids=str)
def test_a_choice_from_the_best_is_that_from_all(values: dict, read: int):
    params = SamplingParams(**{"temperature": 1.3, "seed": 3, **values})
    random = np.random.default_rng(1)
    whole, parts = (Sampler(params, np.array([1, 2], np.int32), VOCAB) for _ in range(2))
    for _ in range(200):
        row = BestFirst(random.normal(0, 2, VOCAB).astype(np.float32))
        assert parts.choose(row) == whole.sample(row._logits)
        assert row.read == [read]
