"""How long a prefill chunk takes: learned from the chunks that were run."""

from __future__ import annotations

from collections import deque

import numpy as np

RECENT = 16
# Each chunk counts this much less than the one after it: what else the machine does changes within a few chunks.
FORGETTING = 0.8
# Chunks whose lengths spread by less than this share of their mean are taken as equally long.
SPREAD = 0.01
# What is said about chunks beyond this multiple of the longest recent one is a guess.
REACH = 2


class ChunkTime:
    """Time of a chunk of n tokens as a + b * n, by weighted least squares over the latest chunks.

    a is what every chunk costs (reading weights: a mixture of experts soon needs nearly all of them), b what each
    token adds; neither is below 0. Errors count in proportion to the time, so that one long chunk does not outweigh the
    short ones. Attention to what is cached already is not a term of its own: it grows slowly along a prompt, and recent
    chunks show it.

    Args:
        first_tokens: the longest chunk to expect anything of before there is a measurement.
    """

    def __init__(self, first_tokens: int):
        self._first_tokens = first_tokens
        self._chunks: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._fixed, self._per_token = 0.0, 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a chunk that was run."""
        self._chunks.append((tokens, max(seconds, 1e-9)))
        self._fixed, self._per_token = _fit(*np.array(self._chunks).T)

    def seconds(self, tokens: int) -> float:
        """Expected time of a chunk; 0 before there is a measurement."""
        return self._fixed + self._per_token * tokens

    def even_tokens(self, other_seconds: float) -> int:
        """Tokens whose own cost is as much as that of every chunk and what else is done for each chunk together."""
        reach = REACH * max((tokens for tokens, _ in self._chunks), default=0)
        return int(min(reach, (self._fixed + other_seconds) / self._per_token)) if self._per_token > 0 else reach

    def tokens_within(self, seconds: float) -> int:
        """The longest chunk expected to end in time, 0 if none is; at most twice the longest recent one."""
        if not self._chunks:
            return self._first_tokens
        reach = REACH * max(tokens for tokens, _ in self._chunks)
        room = seconds - self._fixed
        return max(0, int(min(reach, room / self._per_token if self._per_token > 0 else np.copysign(reach, room))))


def _fit(tokens: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """a and b, both at least 0, of the line through the chunks, the last of which are the newest."""
    weights = FORGETTING ** np.arange(len(tokens))[::-1] / seconds**2
    weights /= weights.sum()
    mean_tokens, mean_seconds = weights @ tokens, weights @ seconds
    spread = weights @ (tokens - mean_tokens) ** 2
    steepest = mean_seconds / mean_tokens
    known = spread > (SPREAD * mean_tokens) ** 2
    # Chunks of one length say nothing about b: then all of the time is put down to the tokens, so that a longer chunk
    # is expected to take no less than it will.
    slope = weights @ ((tokens - mean_tokens) * (seconds - mean_seconds)) / spread if known else steepest
    slope = min(max(slope, 0.0), steepest)
    return mean_seconds - slope * mean_tokens, slope
