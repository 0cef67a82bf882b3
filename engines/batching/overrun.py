"""By how much longer turns take than was expected: what other processes, and the host, add to chunks and steps."""

from __future__ import annotations

from collections import deque

RECENT = 64
# This share of recent turns is to end in time.
SHARE = 0.95


class Overrun:
    """Learns from the turns that were taken, each with what had been expected of it."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)

    def observe(self, expected: float, seconds: float) -> None:
        """A turn was taken."""
        self._recent.append(seconds - expected)

    @property
    def seconds(self) -> float:
        """What most turns do not exceed their expected time by; 0 if they are quicker, or there were none."""
        late = sorted(self._recent)
        return max(0.0, late[min(int(SHARE * len(late)), len(late) - 1)]) if late else 0.0
