"""What the receiver of one transfer has granted: which tokens are missing, and which slots the sender may write to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from triton_repo.handoff.blocks import GrantedBlock, TokenRange


class ReceiverGrants:
    """Each visual token is missing, in a block that is granted, or here.

    A slot is held from its grant until its block was read or, if the grant was revoked, until the sender has said that
    it knows.

    Args:
        tokens: visual tokens of the transfer; all are missing.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._missing: deque[TokenRange] = deque([TokenRange(0, tokens)])
        self._granted: dict[int, GrantedBlock] = {}
        self._revoked: list[int] = []
        self._numbers = 0

    def __contains__(self, block: GrantedBlock) -> bool:
        """Whether exactly this block is granted."""
        return self._granted.get(block.number) == block

    def __len__(self) -> int:
        """Blocks that are granted."""
        return len(self._granted)

    @property
    def complete(self) -> bool:
        """Whether all tokens are here."""
        return not self._missing and not self._granted

    @property
    def held(self) -> tuple[int, ...]:
        """Slots that the sender may still write to."""
        return (*(block.slot for block in self._granted.values()), *self._revoked)

    def missing_blocks(self, tokens: int) -> int:
        """How many blocks of at most `tokens` the missing tokens make."""
        return sum(-(-(missing.end - missing.first) // tokens) for missing in self._missing)

    def grant(self, slots: Sequence[int], tokens: int) -> list[GrantedBlock]:
        """For each slot a block of at most `tokens` of those that are missing.

        Args:
            slots: not more than `missing_blocks`.
        """
        blocks = []
        for slot in slots:
            missing = self._missing.popleft()
            end = min(missing.first + tokens, missing.end)
            if end < missing.end:
                self._missing.appendleft(TokenRange(end, missing.end))
            self._numbers += 1
            block = GrantedBlock(self._numbers, slot, missing.first, end - missing.first)
            self._granted[block.number] = block
            blocks.append(block)
        return blocks

    def read(self, number: int, intact: bool) -> GrantedBlock:
        """A granted block was read, its slot is held no more; if it was damaged, its tokens are missing again."""
        block = self._granted.pop(number)
        if not intact:
            self._missing.appendleft(TokenRange(block.first, block.end))
        return block

    def revoke(self) -> None:
        """All grants are void: their tokens are missing again, their slots still held."""
        blocks = sorted(self._granted.values(), key=lambda block: block.first, reverse=True)
        self._missing.extendleft(TokenRange(block.first, block.end) for block in blocks)
        self._revoked += [block.slot for block in blocks]
        self._granted.clear()

    def restart(self) -> None:
        """As `revoke`, and what was here is missing again, too."""
        self.revoke()
        self._missing = deque([TokenRange(0, self._tokens)])

    def settle(self) -> tuple[int, ...]:
        """The sender knows what was revoked. Returns the slots, which are held no more."""
        slots, self._revoked = tuple(self._revoked), []
        return slots

    def let_go(self) -> tuple[int, ...]:
        """All grants are void, and the sender knows. Returns the slots, which are held no more."""
        slots = self.held
        self.revoke()
        self._revoked.clear()
        return slots
