"""Choosing the next token from logits."""

from __future__ import annotations

import numpy as np

from engines.batching.logit_row import LogitRow
from qwen3vl.sampling import SamplingParams

# Candidates sorted first for top_p; only flatter distributions need the whole vocabulary sorted.
TOP_P_CANDIDATES = 1024
# Logits of a block, of which the largest alone is looked at first.
BLOCK = 64


class Sampler:
    """Draws the tokens of one request, with its own random stream.

    The order of the steps is the reference implementation's: repetition penalty, temperature, top_k, top_p.

    Args:
        params: how to sample.
        prompt_ids: the prompt's token ids; ids outside the vocabulary (visual tokens) carry no penalty.
        vocab_size: length of the logits.
    """

    def __init__(self, params: SamplingParams, prompt_ids: np.ndarray, vocab_size: int):
        self.params = params
        self._random = np.random.default_rng(params.seed)
        self._seen = None
        if params.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab_size, bool)
            self._seen[prompt_ids[(prompt_ids >= 0) & (prompt_ids < vocab_size)]] = True

    def sample(self, logits: np.ndarray) -> int:
        """The next token's id, from logits float32 [vocab_size] (not changed)."""
        params = self.params
        if self._seen is not None:
            penalised = np.where(logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty)
            logits = np.where(self._seen, penalised, logits)
        if params.temperature == 0:
            token = int(logits.argmax())
        else:
            ids = largest(logits, params.top_k or len(logits))
            token = self._draw(logits[ids], ids)
        if self._seen is not None:
            self._seen[token] = True
        return token

    def draw(self, candidates: int) -> tuple[float, float, float, float] | None:
        """What a decoder takes to choose the next token itself, instead of a call of `choose` or `sample`.

        Args:
            candidates: the largest top_k that it can do this for, 0 if it cannot at all.

        Returns:
            temperature, top_k, top_p and a random number from 0 to 1; None where the choice is the sampler's.
        """
        params = self.params
        if self._seen is not None or not candidates:
            return None
        if params.temperature == 0:
            return 0.0, 0.0, 1.0, 0.0
        if not 1 <= params.top_k <= candidates:
            return None
        return params.temperature, params.top_k, params.top_p, self._random.random()

    def choose(self, row: LogitRow) -> int:
        """As `sample`, reading no more logits than the choice takes."""
        params = self.params
        if self._seen is None and params.temperature == 0:
            return row.likeliest()
        best = row.best(params.top_k) if self._seen is None and params.top_k else None
        if best is None:
            return self.sample(row.all())
        ids, logits = best
        return self._draw(logits, ids)

    def _draw(self, logits: np.ndarray, token_ids: np.ndarray) -> int:
        """A token by the logits of some, in any order."""
        params = self.params
        scaled = logits.astype(np.float64) / params.temperature
        probabilities = np.exp(scaled - scaled.max())
        ids = np.arange(len(logits))
        if 0 < params.top_k < len(ids):
            ids = np.argpartition(-probabilities, params.top_k - 1)[: params.top_k]
        if params.top_p < 1:
            ids = _nucleus(probabilities, ids, params.top_p)
        # Sorted, so that a seed draws the same token whatever order they came in or the partition left.
        ids = ids[np.argsort(token_ids[ids], kind="stable")]  # the quickest way for what is sorted: all of them
        cumulative = np.cumsum(probabilities[ids])
        drawn = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(token_ids[ids[min(drawn, len(ids) - 1)]])  # The product can round up to the total itself.


def largest(logits: np.ndarray, count: int) -> np.ndarray:
    """Ids of so many of the largest logits, all if there are no more; in no order.

    A logit among the `count` largest is not below the `count` largest of the blocks' maxima: those below go unsorted.
    """
    if BLOCK * count >= len(logits):
        return np.argpartition(logits, -count)[-count:] if count < len(logits) else np.arange(len(logits))
    whole = len(logits) // BLOCK * BLOCK
    maxima = logits[:whole].reshape(-1, BLOCK).max(axis=1)
    # Not "at least as large": what is no number, from an engine that went wrong, must not be lost either.
    ids = np.flatnonzero(~(logits < np.partition(maxima, -count)[-count]))
    return ids[np.argpartition(logits[ids], -count)[-count:]]


def _nucleus(probabilities: np.ndarray, ids: np.ndarray, top_p: float) -> np.ndarray:
    """The fewest most likely of `ids` whose share of their probability reaches `top_p`."""
    target = top_p * probabilities[ids].sum()
    for count in (TOP_P_CANDIDATES, len(ids)):
        best = ids[np.argpartition(-probabilities[ids], count - 1)[:count]] if count < len(ids) else ids
        best = best[np.argsort(-probabilities[best], kind="stable")]
        cumulative = np.cumsum(probabilities[best])
        if cumulative[-1] >= target:
            return best[: np.searchsorted(cumulative, target) + 1]
    return best
