"""When the receiver of one transfer asks again, and when it gives up."""

from __future__ import annotations

from dataclasses import dataclass

from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.errors import CorruptBlock, HandoffError, Unreachable


@dataclass(frozen=True)
class Patience:
    """See `ReceiverSettings`."""

    stall_seconds: float
    attempts: int
    corrupt_blocks: int


class Setbacks:
    """Counts what goes wrong with a transfer; what counts a setback returns the error if it was one too many.

    Attributes:
        corrupt: blocks with a wrong checksum so far.

    Args:
        patience: how many there may be.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.corrupt = self._unanswered = self._stalls = self._breaks = 0
        self._waiting_since = 0.0

    def wait_from(self, now: float) -> None:
        """Something is waited for from now on."""
        self._waiting_since = now

    def heard(self, now: float) -> None:
        """The sender answered."""
        self._waiting_since, self._unanswered = now, 0

    def got_encoding(self) -> None:
        """There are rows, which are not those of before."""
        self._stalls = 0

    def got_block(self) -> None:
        """A block came with the right checksum: things go on."""
        self._stalls = self._breaks = 0

    def stalled(self, now: float) -> bool:
        """Whether nothing was heard for long: a message may be lost.

        Asking again voids the blocks under way, so each time that no block came of it, the wait is twice as long: a
        sender that is slow but at work gets done.
        """
        return now - self._waiting_since >= self._wait

    def ask_again(self) -> HandoffError | None:
        """It is `stalled`, and the sender is to be asked once more."""
        if self._unanswered >= self._patience.attempts:
            return Unreachable(f"the encode server did not answer {self._unanswered} times, the last time for "
                               f"{self._wait:g} s")
        self._unanswered += 1
        self._stalls += 1
        return None

    def lost_stream(self, error: HandoffError) -> HandoffError | None:
        """A stream is gone, or could not be had: `error`."""
        if self._breaks >= self._patience.attempts:
            return error
        self._breaks += 1
        return None

    def damaged(self, block: GrantedBlock) -> HandoffError | None:
        """A block came with a wrong checksum."""
        self.corrupt += 1
        if self.corrupt < self._patience.corrupt_blocks:
            return None
        return CorruptBlock(f"{self.corrupt} blocks of one image arrived with a wrong checksum, the last with tokens "
                            f"{block.first} to {block.end - 1}: look for failing memory or network hardware")

    @property
    def _wait(self) -> float:
        return self._patience.stall_seconds * 2**self._stalls
