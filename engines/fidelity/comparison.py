"""How far an engine may be from the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# In float32: the largest difference, as a share of the reference's largest value.
LARGEST_DIFFERENCE = 1e-4
# In half precision: the root of the mean square of the differences, as a share of the reference's, against that of the
# reference itself in the same precision. Where two experts are nearly as good, rounding decides: single values then
# differ by any amount, on both sides, so the largest difference says nothing.
NOISE_FACTOR = 3
LEAST_NOISE = 1e-3
# Without DeepStack's rows the logits must differ by this many times what is allowed.
CANARY_FACTOR = {"fp32": 10, "fp16": 2, "bf16": 2, "int8": 2, "int4": 2}
# A token may be another one than the reference's where the reference's logits of both differ by less than rounding may
# make of them: by this many times the allowed root mean square.
TIE_FACTOR = 2


@dataclass(frozen=True)
class Result:
    """One comparison: what was measured, in which unit, and what was allowed."""

    case: str
    level: str
    passed: bool
    error: float
    limit: float


@dataclass(frozen=True)
class Tolerance:
    """What is allowed at one level.

    Attributes:
        precision: of the engine, a key of `CANARY_FACTOR`.
        noise: `distance` of the reference in that precision from itself in float32; 0 for "fp32".
    """

    precision: str
    noise: float = 0.0

    @property
    def limit(self) -> float:
        if self.precision == "fp32":
            return LARGEST_DIFFERENCE
        return NOISE_FACTOR * max(self.noise, LEAST_NOISE)

    def compare(self, case: str, level: str, actual: np.ndarray, expected: np.ndarray) -> Result:
        """Is an engine's output what was expected?"""
        if actual.shape != expected.shape or not np.isfinite(actual).all():
            return Result(case, level, False, float("inf"), self.limit)
        error = distance(self.precision, actual, expected)
        return Result(case, level, error <= self.limit, error, self.limit)

    def canary(self, case: str, level: str, actual: np.ndarray, expected: np.ndarray) -> Result:
        """Is the output as different as it must be when something is left out?"""
        least, error = CANARY_FACTOR[self.precision] * self.limit, distance(self.precision, actual, expected)
        return Result(case, level, error > least, error, least)

    def greedy(self, case: str, level: str, actual: list[int], expected: list[int], logits: np.ndarray) -> Result:
        """Are greedily chosen tokens the reference's, up to where rounding may have decided?

        Args:
            actual, expected: token ids, an end token not among them.
            logits: float32 [n, V], the reference's for each token of `expected` and the end behind it.

        Returns:
            With the share of tokens that are not the reference's as its error.
        """
        same = next((i for i, pair in enumerate(zip(actual, expected, strict=False)) if pair[0] != pair[1]),
                    min(len(actual), len(expected)))
        error = 1 - same / max(1, len(actual), len(expected))
        passed = actual == expected
        if not passed and self.precision != "fp32" and same < len(logits):
            # An end where there should be more, or the other way round, is a choice between tokens too: the best ones.
            ranked = np.sort(logits[same])
            chosen = logits[same][actual[same]] if same < len(actual) else ranked[-2]
            allowed = TIE_FACTOR * self.limit * float(np.sqrt(np.mean(np.square(logits[same]))))
            passed = bool(ranked[-1] - chosen <= allowed)
        return Result(case, level, passed, error, 0.0)


def distance(precision: str, actual: np.ndarray, expected: np.ndarray) -> float:
    """Of two equally shaped arrays, relative to the second one."""
    tiny, difference = np.finfo(np.float32).tiny, np.asarray(actual, np.float64) - expected
    if precision == "fp32":
        return float(np.abs(difference).max() / max(np.abs(expected).max(), tiny))
    return float(np.sqrt(np.mean(np.square(difference)) / max(np.mean(np.square(expected, dtype=np.float64)), tiny)))
