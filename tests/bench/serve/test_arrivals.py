"""Poisson arrivals: the right rate, gaps without memory, the same for a seed."""

import numpy as np
import pytest

from bench.serve.arrivals import poisson_arrivals


def test_arrivals_have_the_rate_and_the_gaps_of_a_poisson_process():
    times = poisson_arrivals(4.0, 20_000, seed=1)
    gaps = np.diff(times, prepend=0)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() == pytest.approx(0.25, rel=0.03)
    # An exponential gap is longer than its mean in 1/e of all cases, however long it has been already.
    assert (gaps > 0.25).mean() == pytest.approx(np.exp(-1), abs=0.02)
    assert (gaps[gaps > 0.25] > 0.5).mean() == pytest.approx(np.exp(-1), abs=0.03)
    # As many come in one second as in another: variance equals mean.
    counts = np.bincount(times.astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.1)


def test_another_rate_is_the_same_pattern_faster():
    assert (poisson_arrivals(2.0, 50, seed=3) == poisson_arrivals(2.0, 50, seed=3)).all()
    assert poisson_arrivals(8.0, 50, seed=3) == pytest.approx(poisson_arrivals(2.0, 50, seed=3) / 4)
    assert (poisson_arrivals(2.0, 50, seed=3) != poisson_arrivals(2.0, 50, seed=4)).all()
