"""A decoder that computes as late as it may: when somebody waits for what was begun. It says when it is misused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engines.batching.logit_row import HostRow, LogitRow
from engines.onnxruntime.decoder import Decoder
from plugins.decoder_kernels.step_ends import top_logits

UNDER_WAY = 2


class LateDecoder:
    """Runs ahead of a decoder for the CPU, which does the same work in the same order, later.

    Attributes:
        fed_back: steps that began before the tokens they follow were read.
        overlapped: steps that began while another one's tokens could still be read.
    """

    runs_ahead = True

    def __init__(self, decoder: Decoder, candidates: int = 64):
        self.decoder, self.candidates = decoder, candidates
        self.config, self.slots, self.capacity = decoder.config, decoder.slots, decoder.capacity
        self.begun: list[LateStep] = []
        self.fed_back = self.overlapped = 0
        self._work: list[Callable[[], None]] = []
        self._held = np.zeros(self.slots, np.int32)  # tokens in each slot

    def prefill(self, slot: int, token_ids: np.ndarray, position_ids: np.ndarray, visual_rows: np.ndarray, start: int,
                logit_rows: np.ndarray) -> np.ndarray:
        self.finish()
        self._held[slot] = start + len(token_ids)
        return self.decoder.prefill(slot, token_ids, position_ids, visual_rows, start, logit_rows)

    def begin_step(self, token_ids: np.ndarray, positions: np.ndarray, total_lengths: np.ndarray,
                   draws: np.ndarray) -> LateStep:
        assert len(token_ids) == len(positions) == len(total_lengths) == len(draws) <= self.slots
        assert total_lengths.max() <= self.capacity
        np.testing.assert_array_equal(total_lengths, self._held[: len(total_lengths)] + 1)
        self._held[: len(total_lengths)] = total_lengths
        before = self.begun[-1] if self.begun else None
        if (token_ids < 0).any():
            assert before is not None and not before.is_read and (-1 - token_ids < before.count).all()
            self.fed_back += 1
        step = LateStep(self, len(self.begun), len(token_ids))
        self.overlapped += before is not None and not before.is_read
        self.begun.append(step)
        if len(self.begun) > UNDER_WAY:
            self.begun[-1 - UNDER_WAY].wait()

        def compute() -> None:
            ids = [before.chosen_tokens[-1 - token] if token < 0 else token for token in token_ids.tolist()]
            step.logits = self.decoder.decode(np.array(ids, np.int32), positions, total_lengths).copy()
            _, _, step.chosen_tokens = top_logits(step.logits, draws, k=self.candidates)

        self._work.append(compute)
        return step

    def move_slot(self, source: int, target: int, length: int) -> None:
        assert length == self._held[source]
        self._held[target] = length
        self._work.append(lambda: self.decoder.move_slot(source, target, length))

    def finish(self) -> None:
        """Do all that was begun."""
        work, self._work = self._work, []
        for each in work:
            each()


class LateStep:
    """See `BegunStep`.

    Attributes:
        is_read: whether somebody has asked for its tokens.
    """

    def __init__(self, decoder: LateDecoder, number: int, count: int):
        self._decoder, self._number, self.count = decoder, number, count
        self.logits = self.chosen_tokens = None
        self.is_read = False

    def wait(self) -> None:
        if self.logits is None:
            self._decoder.finish()

    def rows(self) -> Sequence[LogitRow]:
        self.read(1)
        return [LateRow(self, logits) for logits in self.logits]

    def chosen(self) -> list[int]:
        self.read(UNDER_WAY)
        return self.chosen_tokens.tolist()

    def read(self, steps: int) -> None:
        """Only before so many steps have begun behind this one."""
        assert len(self._decoder.begun) - self._number <= steps, "what is read may be overwritten"
        self.wait()
        self.is_read = True


class LateRow(HostRow):
    def __init__(self, step: LateStep, logits: np.ndarray):
        super().__init__(logits)
        self._step = step

    def all(self) -> np.ndarray:
        self._step.read(1)
        return super().all()
