"""Does a server's memory grow?

Looked at is what it allocated: how much of a library's pages counts depends on what other programs run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.serve.server_watch import Sample

# Samples before this share of the time are left out: until then every part of the server has seen its largest request.
SETTLED = 0.25


@dataclass(frozen=True)
class MemoryTrend:
    """Attributes:
        first_bytes, last_bytes: median of the first and of the last third of the time after settling.
        per_hour: slope of the line through all samples after settling, in bytes per hour.
        largest_bytes: of all samples.
    """

    first_bytes: int
    last_bytes: int
    per_hour: float
    largest_bytes: int


def memory_trend(samples: Sequence[Sample]) -> MemoryTrend | None:
    """The trend of a server's memory; None for fewer than six samples after settling."""
    known = [(sample.at, sample.own_bytes) for sample in samples if sample.own_bytes]
    settled = [(at, size) for at, size in known if at >= known[0][0] + SETTLED * (known[-1][0] - known[0][0])]
    if len(settled) < 6:
        return None
    at, size = np.array(settled, float).T
    third = len(size) // 3
    slope = np.polyfit(at - at[0], size, 1)[0]
    return MemoryTrend(int(np.median(size[:third])), int(np.median(size[-third:])), 3600 * float(slope),
                       max(size for _, size in known))
