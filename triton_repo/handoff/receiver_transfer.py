"""One transfer as the language side sees it. No I/O: events go in, messages to be sent and free slots come out.

The receiver decides what travels: it grants ranges of tokens into slots that it owns, and counts as received what it
has read with the right checksum. A new attempt voids all grants before it; their slots are free when the sender has
said that it knows (`Accepted`), not sooner, because it may still be writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.errors import HandoffError
from triton_repo.handoff.job import EncodeJob
from triton_repo.handoff.messages import Block, Cancel, Grant, Message, Release, Request, Resume
from triton_repo.handoff.receiver_grants import ReceiverGrants
from triton_repo.handoff.receiver_patience import Patience, Setbacks
from triton_repo.handoff.states import State

# Blocks under way at a time: the sender fills one while the receiver reads another.
WINDOW = 8
# Blocks granted with the request: while they travel there is time to grant the others.
EARLY = 2


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
        self._job = job
        self._grants, self._setbacks = ReceiverGrants(tokens), Setbacks(patience)
        self._session, self._block = "", 0
        self._encoding: str | None = None
        self._known = False

    @property
    def wanted(self) -> int:
        """Slots that it can use now."""
        if self.state is not State.TRANSFERRING or not self.connected:
            return 0
        return min(self._grants.missing_blocks(self._block), WINDOW - len(self._grants))

    @property
    def held(self) -> tuple[int, ...]:
        """Slots that the sender may still write to."""
        return self._grants.held

    def early(self, block: int) -> int:
        """Slots of `block` tokens that it can use with its first request."""
        return 0 if self._known else min(EARLY, self._grants.missing_blocks(block))

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
        self._grants.let_go()
        self.connected = False
        self._setbacks.wait_from(now)
        if (last := self._setbacks.lost_stream(error)) is not None:
            return self.fail(last)
        self.state = State.BOOTSTRAPPING
        return Step()

    def accepted(self, attempt: int, now: float) -> Step:
        """The sender is at work, and has dropped the grants of earlier attempts."""
        if not self._hear(attempt, now):
            return Step()
        self._known = True
        if self.state is State.BOOTSTRAPPING:
            self.state = State.WAITING
        return Step(free=self._grants.settle())

    def unknown(self, attempt: int, now: float) -> Step:
        """The sender, started anew or out of patience, has nothing of this transfer: ask for all of it."""
        if not self._hear(attempt, now):
            return Step()
        freed, self._known = self._grants.settle(), False
        self._grants.revoke()
        return Step(self._ask(now).send, freed)

    def ready(self, attempt: int, encoding: str, now: float) -> Step:
        """The sender has rows. If they are not those of before, what was received is worthless."""
        if not self._hear(attempt, now):
            return Step()
        step = self.accepted(attempt, now)
        known, self._encoding = self._encoding, encoding
        if known != encoding:
            self._setbacks.got_encoding()
        if known not in (None, encoding):
            voided = len(self._grants) > 0
            self._grants.restart()
            if voided:
                return Step(self._ask(now).send, step.free)
        self.state = State.TRANSFERRING
        return step

    def grant(self, slots: list[int], now: float) -> Step:
        """Slots are there: let the sender fill them."""
        used = slots[:self.wanted]
        blocks = self._grant(used)
        if blocks:
            self._setbacks.wait_from(now)
        send = (Grant(self.transfer, self.attempt, blocks),) if blocks else ()
        return Step(send, tuple(slots[len(used):]))

    def announced(self, block: Block, now: float) -> Step:
        """A block came; that rows are there may have been left unsaid, or be said later."""
        return Step() if self.state is State.TRANSFERRING else self.ready(block.attempt, block.encoding, now)

    def expects(self, block: Block) -> bool:
        """Whether this block was granted, is not here yet and belongs to the rows of before: it may be read."""
        return (self.state is State.TRANSFERRING and block.attempt == self.attempt and block.encoding == self._encoding
                and GrantedBlock(block.number, block.slot, block.first, block.tokens) in self._grants)

    def read(self, block: Block, intact: bool, now: float) -> Step:
        """A block that `expects` has allowed was read, with the right checksum or not."""
        granted = self._grants.read(block.number, intact)
        self._hear(block.attempt, now)
        if not intact:
            error = self._setbacks.damaged(granted)
            return self._and_free(granted.slot, Step() if error is None else self.fail(error))
        self._setbacks.got_block()
        if not self._grants.complete:
            return Step(free=(granted.slot,))
        self.state = State.SUCCESS
        return self._and_free(granted.slot, Step((Release(self.transfer),)))

    def failed(self, attempt: int, error: HandoffError) -> Step:
        """The sender gave up; it writes no more."""
        if attempt != self.attempt or self.state.over:
            return Step()
        return Step(self.fail(error).send, self._grants.let_go())

    def fail(self, error: HandoffError) -> Step:
        """This side gives up. Slots that are `held` are free when the sender says `Closed`, or with the stream."""
        if self.state.over:
            return Step()
        self.state, self.error = State.FAILED, error
        return Step((Cancel(self.transfer),) if self.connected and self.attempt else ())

    def tick(self, now: float) -> Step:
        """Ask again if nothing was heard for long."""
        if self.state.over or not self.connected or not self._setbacks.stalled(now):
            return Step()
        if (error := self._setbacks.ask_again()) is not None:
            return self.fail(error)
        self._grants.revoke()
        return self._ask(now)

    def _ask(self, now: float, slots: Sequence[int] = ()) -> Step:
        self.state = State.BOOTSTRAPPING
        self.attempt += 1
        self._setbacks.wait_from(now)
        job = self._job
        if self._known:
            return Step((Resume(self._session, self.transfer, self.attempt),))
        return Step((Request(self._session, self.transfer, self.attempt, job.request_id, job.image_hash.hex(), job.kind,
                             job.grid, self._grant(slots)),))

    def _grant(self, slots: Sequence[int]) -> tuple[tuple[int, int, int, int], ...]:
        """Blocks of missing tokens for these slots, as messages say them."""
        return tuple((block.number, block.slot, block.first, block.tokens)
                     for block in self._grants.grant(slots, self._block))

    def _hear(self, attempt: int, now: float) -> bool:
        if attempt != self.attempt or self.state.over:
            return False
        self._setbacks.heard(now)
        return True

    @staticmethod
    def _and_free(slot: int, step: Step) -> Step:
        return Step(step.send, (*step.free, slot))
