"""When requests come."""

from __future__ import annotations

import numpy as np


def poisson_arrivals(rate: float, count: int, seed: int) -> np.ndarray:
    """Times of `count` requests that come independently of each other and of the server, in seconds from the start.

    Gaps between them are exponential with a mean of 1 / rate.

    Args:
        rate: requests per second.
    """
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
