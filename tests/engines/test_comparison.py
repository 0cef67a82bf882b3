"""What counts as agreement with the reference."""

from __future__ import annotations

import numpy as np
import pytest

from engines.fidelity.comparison import LEAST_NOISE, NOISE_FACTOR, Tolerance, distance

VALUES = np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32)


def passed(tolerance: Tolerance, actual: np.ndarray) -> bool:
    return tolerance.compare("case", "level", actual, VALUES).passed


def test_float32_allows_rounding_only() -> None:
    off = VALUES.copy()
    off[3, 4] += 5e-5 * np.abs(VALUES).max()
    assert passed(Tolerance("fp32"), off)
    off[3, 4] += 1e-4 * np.abs(VALUES).max()
    assert not passed(Tolerance("fp32"), off)


def test_half_precision_allows_a_few_times_the_reference_s_own_noise() -> None:
    noise = 0.01 * np.random.default_rng(1).standard_normal(VALUES.shape).astype(np.float32)
    tolerance = Tolerance("bf16", distance("bf16", VALUES + noise, VALUES))
    assert tolerance.limit == pytest.approx(0.03, rel=0.1)
    assert passed(tolerance, VALUES + 2 * noise) and not passed(tolerance, VALUES + 4 * noise)
    flipped = VALUES.copy()
    flipped[7] = VALUES[8]  # another expert, at one token of fifty
    assert not passed(tolerance, flipped)
    assert Tolerance("bf16", 0.0).limit == NOISE_FACTOR * LEAST_NOISE


def test_other_shapes_and_numbers_that_are_none_fail() -> None:
    broken = VALUES.copy()
    broken[0, 0] = np.nan
    for precision in ("fp32", "bf16"):
        assert not passed(Tolerance(precision, 1.0), broken)
        assert not passed(Tolerance(precision, 1.0), VALUES[1:])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_canary_sings_where_nothing_changes(precision: str) -> None:
    tolerance = Tolerance(precision, 0.01)
    assert not tolerance.canary("case", "level", VALUES, VALUES).passed
    assert tolerance.canary("case", "level", -VALUES, VALUES).passed


LOGITS = np.array([[9.0, 1, 0], [4.0, 3.99, 0], [9.0, 0, 1], [0.0, 9, 1]], np.float32)


@pytest.mark.parametrize(("actual", "precision", "agrees"), [
    ([0, 0, 0], "fp32", True), ([0, 0, 0], "bf16", True),
    ([0, 1, 2], "bf16", True),  # where the second token was chosen both were as good; what follows is another text
    ([0, 1, 2], "fp32", False),
    ([1, 0, 0], "bf16", False),  # far from the reference's choice
    ([0, 0], "bf16", False),  # ends although another token was much better
    ([0], "bf16", True),  # ends where the best two were as good
    ([0, 0, 0, 2], "bf16", False),  # goes on although the end was much better
])
def test_tokens_may_differ_from_where_rounding_decides(actual: list[int], precision: str, agrees: bool) -> None:
    result = Tolerance(precision, 0.01).greedy("case", "level", actual, [0, 0, 0], LOGITS)
    assert result.passed is agrees
    assert (result.error == 0) is (actual == [0, 0, 0])
