"""Decode steps of running sequences, begun before the tokens they follow are known where the decoder can do that."""

from __future__ import annotations

import time
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np

from engines.batching.sequence import Sequence
from engines.batching.step import BegunStep
from engines.onnxruntime.open_decoder import StepDecoder


@dataclass(frozen=True)
class Taken:
    """A step that was computed.

    Attributes:
        sequences: those of it that still run, each with its new `last_token`.
        seconds: from the step's beginning, or the end of the one before where that was later, to its end.
    """

    sequences: list[Sequence]
    seconds: float


class DecodeSteps:
    """Takes one step after the other.

    Where a decoder runs ahead, the next step begins before a step's tokens are sent, and before they are known if the
    decoder chooses them all itself. So it may have a row for a sequence that turns out to have ended: nobody reads it.

    What `take` is given as running is what `Slots` keeps: the sequence at index i is in slot i. Sequences may join and
    leave at any time.
    """

    def __init__(self, decoder: StepDecoder):
        self._decoder = decoder
        self._ahead: _Step | None = None
        self._done = 0.0  # when the last step was

    @property
    def is_ahead(self) -> bool:
        """Whether a step has begun that was not taken."""
        return self._ahead is not None

    def take(self, running: Items[Sequence], *, ahead: bool) -> Taken:
        """One more token for all running sequences, one at least.

        Args:
            ahead: whether the step after this one may begin too.
        """
        step, self._ahead = self._ahead or self._begin(running, None), None
        ahead = ahead and self._decoder.runs_ahead and not all(sequence.ends_with_next() for sequence in running)
        if ahead and all(step.drawn):
            self._ahead = self._begin(running, step)
        tokens = step.tokens()
        done = time.perf_counter()
        seconds, self._done = done - max(step.began, self._done), done
        for sequence, token in zip(step.sequences, tokens, strict=True):
            sequence.last_token = token
        if ahead and self._ahead is None:
            self._ahead = self._begin(running, None)
        alive = [sequence for sequence in step.sequences
                 if sequence.slot < len(running) and running[sequence.slot] is sequence]
        return Taken(alive, seconds)

    def forget(self) -> None:
        """What is ahead is for nobody: wait for its end."""
        step, self._ahead = self._ahead, None
        if step is not None:
            step.begun.wait()

    def _begin(self, running: Items[Sequence], before: _Step | None) -> _Step:
        """Begin a step that follows known tokens and, of sequences that are in the step before, those it chooses."""
        sequences, began = list(running), time.perf_counter()
        rows = {id(sequence): row for row, sequence in enumerate(before.sequences)} if before else {}
        tokens = [-1 - rows[id(sequence)] if id(sequence) in rows else sequence.last_token for sequence in sequences]
        draws = [sequence.sampler.draw(self._decoder.candidates) for sequence in sequences]
        numbers = np.array([draw or (0, 0, 0, 0) for draw in draws], np.float64)
        begun = self._decoder.begin_step(
            np.array(tokens, np.int32), np.array([sequence.next_position for sequence in sequences], np.int32),
            np.array([sequence.cached + 1 for sequence in sequences], np.int32), numbers)
        for sequence in sequences:
            sequence.cached += 1
        return _Step(sequences, [draw is not None for draw in draws], begun, began)


@dataclass(frozen=True)
class _Step:
    """Attributes: the `sequences` of its rows, for which of them the decoder has `drawn` the token, and when it
    `began`."""

    sequences: list[Sequence]
    drawn: list[bool]
    begun: BegunStep
    began: float

    def tokens(self) -> list[int]:
        """The next token of each sequence."""
        if all(self.drawn):
            return self.begun.chosen()
        chosen = self.begun.chosen() if any(self.drawn) else ()
        return [chosen[row] if self.drawn[row] else sequence.sampler.choose(logits)
                for row, (sequence, logits) in enumerate(zip(self.sequences, self.begun.rows(), strict=True))]
