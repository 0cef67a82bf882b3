"""A time at some depth, and how sure it is, from values that were measured in rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000
# Of the resampled values, how many lie between `low` and `high`, in percent.
CONFIDENCE = 95


@dataclass(frozen=True)
class Estimate:
    """A value and the interval in which 95 % of its resampled values lie."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def inverse(self, factor: float) -> Estimate:
        """`factor` by this: a rate or a share from a time. Infinite where the time may be 0 or less."""
        best, worst, middle = (factor / value if value > 0 else float("inf")
                               for value in (self.low, self.high, self.value))
        return Estimate(middle, worst, best)


def at_depth(rounds: Mapping[int, Sequence[float]], layers: int) -> Estimate:
    """The time with so many layers: measured where `rounds` has them, else on a line through all depths.

    The line is fitted by least squares to each depth's median. Rounds are resampled with replacement (bootstrap), the
    same ones at all depths, which were taken right after each other: what slows a whole round tilts no line.

    Args:
        rounds: by layers, a time for each round.

    Raises:
        ValueError: one depth alone, and not the wanted one.
    """
    if layers in rounds:
        rounds = {layers: rounds[layers]}
    elif len(rounds) < 2:
        raise ValueError(f"times with {list(rounds)} layers alone say nothing of {layers}")
    depths, times = np.array(list(rounds)), np.array(list(rounds.values()))  # [D], [D, R]
    drawn = np.random.default_rng(0).integers(0, times.shape[1], (RESAMPLES, times.shape[1]))
    medians = np.median(times[:, drawn], axis=-1)  # [D, RESAMPLES]
    low, high = np.percentile(_line_at(depths, medians, layers), [50 - CONFIDENCE / 2, 50 + CONFIDENCE / 2])
    value = _line_at(depths, np.median(times, axis=-1, keepdims=True), layers)
    return Estimate(float(value[0]), float(low), float(high))


def median_of(rounds: Sequence[float]) -> Estimate:
    """The median of a value for each round; rounds are resampled as in `at_depth`."""
    return at_depth({0: rounds}, 0)


def _line_at(depths: np.ndarray, times: np.ndarray, layers: int) -> np.ndarray:
    """Times [D, N] at depths [D] to those of N lines at `layers`."""
    if len(depths) == 1:
        return times[0]
    slope, offset = np.polyfit(depths, times, 1)
    return offset + layers * slope
