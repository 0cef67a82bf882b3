"""StepInputs and TopLogits: the numpy definitions beside the sampler, the ONNX functions beside the definitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from engines.batching.sampler import Sampler
from plugins.decoder_kernels import operators, step_ends
from qwen3vl.sampling import SamplingParams
from tests.plugins.decoder_node import assert_close, numbers, run

K = 64
BELOW_ONE = np.nextafter(1, 0)


@dataclass(frozen=True)
class FixedNumber:
    """A random generator that knows one number."""

    number: float

    def random(self) -> float:
        return self.number


def random_draws(generator: np.random.Generator, count: int, largest_top_k: int) -> np.ndarray:
    """Rows of temperature, top_k from 1, top_p and random number; all of their special values are there."""
    def some(special: list[float], others: np.ndarray) -> np.ndarray:
        which = generator.integers(0, 2 * len(special), count)
        return np.where(which < len(special), np.take(special, which, mode="clip"), others)

    return np.stack([some([0, 1], generator.uniform(0.2, 2, count)),
                     some([1, largest_top_k], generator.integers(1, largest_top_k + 1, count)),
                     some([1, 1e-3], generator.uniform(1e-3, 1, count)),
                     some([0, BELOW_ONE], generator.random(count))], -1)


def sampled(logits: np.ndarray, draw: np.ndarray) -> int:
    temperature, top_k, top_p, number = draw.tolist()
    sampler = Sampler(SamplingParams(temperature=temperature, top_k=int(top_k), top_p=top_p), np.empty(0, np.int64),
                      len(logits))
    sampler._random = FixedNumber(number)
    return sampler.sample(logits)


@pytest.mark.parametrize(("vocabulary", "top_k", "step"), [(300, K, 0), (K, 1000, 0), (K, 0, 0), (K, 0, 0.5)])
def test_chosen_tokens_are_the_samplers(vocabulary: int, top_k: int, step: float) -> None:
    generator = np.random.default_rng(17)
    logits = generator.standard_normal((3000, vocabulary)).astype(np.float32)
    if step:  # many are equal
        logits = np.round(logits / step).astype(np.float32) * np.float32(step)
    draws = random_draws(generator, len(logits), max(top_k, 1))
    draws[:, 1] *= top_k > 0
    if step:
        logits[::7], draws[::7, 2:] = 1, 0.5  # shares of 1: their sums are exactly what they are compared with
    _, ids, chosen = step_ends.top_logits(logits, draws, k=K)
    expected = [sampled(*row) for row in zip(logits, draws, strict=True)]
    np.testing.assert_array_equal(chosen, expected)
    assert (chosen != ids[:, 0]).mean() > 0.2  # not just the most likely


@pytest.mark.parametrize(("vocabulary", "k"), [(300, K), (K, K), (40, 7), (9, 1)])
@pytest.mark.parametrize("equal", [False, True])
def test_top_logits(vocabulary: int, k: int, equal: bool) -> None:
    generator = np.random.default_rng(12)
    logits = generator.standard_normal((2000, vocabulary)).astype(np.float32)
    if equal:
        logits = np.round(2 * logits) / 2
    draws = random_draws(generator, len(logits), k + 2)
    draws[::5, 1] = 0
    draws[::7, [0, 2, 3]] = 1e30, 0.5, 0.5  # shares of 1: their sums are exactly what they are compared with
    arrays = {"logits": logits, "draws": draws}
    for got, wanted in zip(run(operators.TOP_LOGITS, arrays, 3, k=k), step_ends.top_logits(**arrays, k=k), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("values", [[np.nan], [np.inf, -np.inf, 0], [np.nan, np.inf, 0, 1], [-np.inf]])
def test_logits_that_are_no_numbers_still_give_one_of_the_ids(values: list[float]) -> None:
    generator = np.random.default_rng(18)
    logits = generator.choice(np.array(values, np.float32), (300, 20))
    arrays = {"logits": logits, "draws": random_draws(generator, len(logits), 9)}
    for _, ids, chosen in (run(operators.TOP_LOGITS, arrays, 3, k=8), step_ends.top_logits(**arrays, k=8)):
        assert ((ids >= 0) & (ids < logits.shape[1])).all()
        assert (ids == chosen[:, None]).any(-1).all()


@pytest.mark.parametrize("tokens", [(1, 10), (10, 1)])
@pytest.mark.parametrize(("chosen", "words"), [([7, 2**40, -1, 9], {0: 0, 1: 9, 4: 7, 7: 9}), ([], {0: 0, 1: 9})])
def test_step_inputs(tokens: tuple[int, int], chosen: list[int], words: dict[int, int]) -> None:
    """`words`: rows of the table by the places of those tokens that have one."""
    ids = np.array([0, 9, 10, 2**31 - 1, -1, -2, -3, -4, -5, -2**31], np.int32).reshape(tokens)
    positions = np.random.default_rng(11).integers(0, 5000, (3, *tokens), np.int32)
    arrays = {"token_ids": ids, "chosen": np.array(chosen, np.int64), **numbers(10, table=(10, 16)),
              "position_ids": positions, "axes": np.array([0, 1, 2, 0, 1, 0]),
              "frequencies": (1e4 ** -np.linspace(0, 1, 6)).astype(np.float32)}
    expected = step_ends.step_inputs(**arrays)
    for got, wanted in zip(run(operators.STEP_INPUTS, arrays, 3), expected, strict=True):
        assert_close(got, wanted)
    rows = np.zeros((ids.size, 16), np.float32)
    for place, word in words.items():
        rows[place] = arrays["table"][word]
    np.testing.assert_array_equal(expected[0].reshape(rows.shape), rows)
