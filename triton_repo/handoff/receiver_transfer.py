"""One transfer as the language side sees it. No I/O: events go in, messages to be sent and free slots come out.

The receiver decides what travels: it grants ranges of tokens into slots that it owns, and counts as received what it
has read with the right checksum. A new attempt voids all grants before it; their slots are free when the sender has
said that it knows (`Accepted`), not sooner, because it may still be writing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from triton_repo.handoff.blocks import GrantedBlock, TokenRange
from triton_repo.handoff.errors import CorruptBlock, HandoffError, Unreachable
from triton_repo.handoff.job import EncodeJob
from triton_repo.handoff.messages import Block, Cancel, Grant, Message, Release, Request, Resume
from triton_repo.handoff.states import State

# Blocks under way at a time: the sender fills one while the receiver reads another.
WINDOW = 8
# Blocks granted with the request: while they travel there is time to grant the others.
EARLY = 2


@dataclass(frozen=True)
class Patience:
    """See `ReceiverSettings`."""

    stall_seconds: float
    attempts: int
    corrupt_blocks: int


@dataclass(frozen=True)
class Step:
    """What to do after an event: messages to send, then slots that are free again."""

    send: tuple[Message, ...] = ()
    free: tuple[int, ...] = ()


class ReceiverTransfer:
    """Gets the rows of one job.

    Attributes:
        transfer: its id.
        state: of the transfer.
        error: why it failed.
        attempt: requests and resumes so far.
        connected: whether its stream is there.

    Args:
        transfer: a new id.
        job: what is wanted.
        tokens: visual tokens that it has.
        patience: when to ask again, and when to give up.
    """

    def __init__(self, transfer: str, job: EncodeJob, tokens: int, patience: Patience) -> None:
        self.transfer, self.state, self.error = transfer, State.BOOTSTRAPPING, None
        self.attempt, self.connected = 0, False
        self._job, self._tokens, self._patience = job, tokens, patience
        self._session, self._block = "", 0
        self._encoding: str | None = None
        self._missing: deque[TokenRange] = deque([TokenRange(0, tokens)])
        self._granted: dict[int, GrantedBlock] = {}
        self._revoked: list[int] = []
        self._numbers = self._unanswered = self._corrupt = self._stalls = self._breaks = 0
        self._known = False
        self._heard = 0.0

    @property
    def wanted(self) -> int:
        """Slots that it can use now."""
        if self.state is not State.TRANSFERRING or not self.connected:
            return 0
        return min(self._blocks_missing(self._block), WINDOW - len(self._granted))

    @property
    def held(self) -> tuple[int, ...]:
        """Slots that the sender may still write to."""
        return (*(block.slot for block in self._granted.values()), *self._revoked)

    def early(self, block: int) -> int:
        """Slots of `block` tokens that it can use with its first request."""
        return 0 if self._known else min(EARLY, self._blocks_missing(block))

    def stream_opened(self, session: str, block: int, now: float, slots: Sequence[int] = ()) -> Step:
        """There is a stream, the first or another one, whose slots take `block` tokens: ask on it.

        Args:
            slots: not more than `early`.
        """
        self._session, self._block, self.connected = session, block, True
        return self._ask(now, slots)

    def stream_lost(self, error: HandoffError, now: float) -> Step:
        """The stream is gone, or could not be had; slots went with it."""
        if self.state.over:
            return Step()
        self._take_back()
        self._revoked.clear()
        self.connected = False
        self._heard = now
        if self._breaks >= self._patience.attempts:
            return self.fail(error)
        self._breaks += 1
        self.state = State.BOOTSTRAPPING
        return Step()

    def accepted(self, attempt: int, now: float) -> Step:
        """The sender is at work, and has dropped the grants of earlier attempts."""
        if not self._hear(attempt, now):
            return Step()
        self._known = True
        if self.state is State.BOOTSTRAPPING:
            self.state = State.WAITING
        freed, self._revoked = tuple(self._revoked), []
        return Step(free=freed)

    def unknown(self, attempt: int, now: float) -> Step:
        """The sender, started anew or out of patience, has nothing of this transfer: ask for all of it."""
        if not self._hear(attempt, now):
            return Step()
        freed, self._revoked, self._known = tuple(self._revoked), [], False
        self._take_back()
        return Step(self._ask(now).send, freed)

    def ready(self, attempt: int, encoding: str, now: float) -> Step:
        """The sender has rows. If they are not those of before, what was received is worthless."""
        if not self._hear(attempt, now):
            return Step()
        step = self.accepted(attempt, now)
        known, self._encoding = self._encoding, encoding
        if known != encoding:
            self._stalls = 0
        if known not in (None, encoding):
            voided = bool(self._granted)
            self._take_back()
            self._missing = deque([TokenRange(0, self._tokens)])
            if voided:
                return Step(self._ask(now).send, step.free)
        self.state = State.TRANSFERRING
        return step

    def grant(self, slots: list[int], now: float) -> Step:
        """Slots are there: let the sender fill them."""
        used = slots[:self.wanted]
        blocks = self._grant(used)
        if blocks:
            self._heard = now
        send = (Grant(self.transfer, self.attempt, blocks),) if blocks else ()
        return Step(send, tuple(slots[len(used):]))

    def announced(self, block: Block, now: float) -> Step:
        """A block came; that rows are there may have been left unsaid, or be said later."""
        return Step() if self.state is State.TRANSFERRING else self.ready(block.attempt, block.encoding, now)

    def expects(self, block: Block) -> bool:
        """Whether this block was granted, is not here yet and belongs to the rows of before: it may be read."""
        granted = self._granted.get(block.number)
        return (self.state is State.TRANSFERRING and block.attempt == self.attempt and block.encoding == self._encoding
                and granted == GrantedBlock(block.number, block.slot, block.first, block.tokens))

    def read(self, block: Block, intact: bool, now: float) -> Step:
        """A block that `expects` has allowed was read, with the right checksum or not."""
        granted = self._granted.pop(block.number)
        self._hear(block.attempt, now)
        if not intact:
            self._missing.appendleft(TokenRange(granted.first, granted.end))
            self._corrupt += 1
            if self._corrupt >= self._patience.corrupt_blocks:
                return self._and_free(granted.slot, self.fail(CorruptBlock(
                    f"{self._corrupt} blocks of one image arrived with a wrong checksum, the last with tokens "
                    f"{granted.first} to {granted.end - 1}: look for failing memory or network hardware")))
            return Step(free=(granted.slot,))
        self._stalls = self._breaks = 0
        if self._missing or self._granted:
            return Step(free=(granted.slot,))
        self.state = State.SUCCESS
        return self._and_free(granted.slot, Step((Release(self.transfer),)))

    def failed(self, attempt: int, error: HandoffError) -> Step:
        """The sender gave up; it writes no more."""
        if attempt != self.attempt or self.state.over:
            return Step()
        freed = self.held
        self._granted.clear()
        self._revoked.clear()
        return Step(self.fail(error).send, freed)

    def fail(self, error: HandoffError) -> Step:
        """This side gives up. Slots that are `held` are free when the sender says `Closed`, or with the stream."""
        if self.state.over:
            return Step()
        self.state, self.error = State.FAILED, error
        return Step((Cancel(self.transfer),) if self.connected and self.attempt else ())

    def tick(self, now: float) -> Step:
        """Ask again if nothing was heard for long: a message may be lost.

        Asking again voids the blocks under way, so each time that no block came of it, the wait is twice as long: a
        sender that is slow but at work gets done.
        """
        wait = self._patience.stall_seconds * 2**self._stalls
        if self.state.over or not self.connected or now - self._heard < wait:
            return Step()
        if self._unanswered >= self._patience.attempts:
            return self.fail(Unreachable(f"the encode server did not answer {self._unanswered} times, the last time "
                                         f"for {wait:g} s"))
        self._unanswered += 1
        self._stalls += 1
        self._take_back()
        return self._ask(now)

    def _ask(self, now: float, slots: Sequence[int] = ()) -> Step:
        self.state = State.BOOTSTRAPPING
        self.attempt += 1
        self._heard = now
        job = self._job
        if self._known:
            return Step((Resume(self._session, self.transfer, self.attempt),))
        return Step((Request(self._session, self.transfer, self.attempt, job.request_id, job.image_hash.hex(), job.kind,
                             job.grid, self._grant(slots)),))

    def _grant(self, slots: Sequence[int]) -> tuple[tuple[int, int, int, int], ...]:
        """Blocks of missing tokens for these slots, as messages say them."""
        blocks = []
        for slot in slots:
            missing = self._missing.popleft()
            end = min(missing.first + self._block, missing.end)
            if end < missing.end:
                self._missing.appendleft(TokenRange(end, missing.end))
            self._numbers += 1
            block = GrantedBlock(self._numbers, slot, missing.first, end - missing.first)
            self._granted[block.number] = block
            blocks.append((block.number, block.slot, block.first, block.tokens))
        return tuple(blocks)

    def _blocks_missing(self, block: int) -> int:
        return sum(-(-(missing.end - missing.first) // block) for missing in self._missing)

    def _hear(self, attempt: int, now: float) -> bool:
        if attempt != self.attempt or self.state.over:
            return False
        self._heard, self._unanswered = now, 0
        return True

    def _take_back(self) -> None:
        """Void all grants: their tokens are missing again, their slots not free yet."""
        blocks = sorted(self._granted.values(), key=lambda block: block.first, reverse=True)
        self._missing.extendleft(TokenRange(block.first, block.end) for block in blocks)
        self._revoked += [block.slot for block in blocks]
        self._granted.clear()

    @staticmethod
    def _and_free(slot: int, step: Step) -> Step:
        return Step(step.send, (*step.free, slot))
