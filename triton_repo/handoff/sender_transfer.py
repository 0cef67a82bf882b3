"""One transfer as the encode side sees it. No I/O: events go in, things to do come out.

Blocks are written one at a time. Whatever voids a grant (a new attempt, a release, a cancellation) waits for the block
that is being written, so that the answer is also the promise that the receiver's slots are left alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.errors import HandoffError, ProtocolError, Unreachable
from triton_repo.handoff.messages import Accepted, Closed, Failed, Message, Rejected
from triton_repo.handoff.states import State


@dataclass(frozen=True)
class Encode:
    """Have the job encoded."""


@dataclass(frozen=True)
class SayReady:
    """Say that rows are there."""

    attempt: int


@dataclass(frozen=True)
class Write:
    """Write a block to its slot, then call `written`."""

    block: GrantedBlock


@dataclass(frozen=True)
class SayBlock:
    """Say that the block just written is there."""

    attempt: int
    block: GrantedBlock


@dataclass(frozen=True)
class Forget:
    """Let go of the rows and of the transfer."""


Action = Message | Encode | SayReady | Write | SayBlock | Forget


class SenderTransfer:
    """Serves one job.

    Attributes:
        transfer: its id.
        state: of the transfer.
        attempt: that is being served.
        attached: whether the stream that it belongs to is there.

    Args:
        tokens: visual tokens that it has.
    """

    def __init__(self, transfer: str, tokens: int) -> None:
        self.transfer, self.state = transfer, State.BOOTSTRAPPING
        self.attempt, self.attached = 0, False
        self._tokens = tokens
        self._granted: deque[GrantedBlock] = deque()
        self._seen: set[int] = set()
        self._writing: GrantedBlock | None = None
        self._greeting = False
        self._closing: State | None = None
        self._error: HandoffError | None = None
        self._detached = 0.0

    @property
    def writing(self) -> bool:
        """Whether a block is being written: some answers wait for its end."""
        return self._writing is not None

    def asked(self, attempt: int, blocks: Sequence[GrantedBlock] = ()) -> list[Action]:
        """A request or resume came, with slots for blocks. One that is not newer than what is known was overtaken by
        it."""
        if attempt <= self.attempt or self._closing is not None:
            return []
        new = self.state is State.BOOTSTRAPPING
        self.attempt, self.attached = attempt, True
        self._granted.clear()
        self._seen.clear()
        if new:
            self.state = State.WAITING
        if (failure := self._take(blocks)) is not None:
            return failure
        if new:
            # The encoder first: the receiver can wait for a word, but not for less than the encoder takes.
            return [Encode(), Accepted(self.transfer, attempt)]
        if self.writing:
            self._greeting = True
            return []
        return self._greet()

    def encoded(self) -> list[Action]:
        """The rows are there."""
        if self.state is not State.WAITING:
            return []
        self.state = State.TRANSFERRING
        if not self.attached:
            return []
        # What is granted says it by itself; the receiver has to know if it is to grant more.
        all_granted = sum(block.tokens for block in self._granted) >= self._tokens
        return [*self._next_write(), *([] if all_granted else [SayReady(self.attempt)])]

    def fail(self, error: HandoffError) -> list[Action]:
        """There will be no rows. The error is kept until the receiver has taken note of it."""
        if self.state.over or self._closing is not None:
            return []
        self.state, self._error = State.FAILED, error
        self._granted.clear()
        if not self.attached or self.writing:
            self._greeting = self._greeting or self.writing
            return []
        return [self._failure()]

    def granted(self, attempt: int, blocks: Sequence[GrantedBlock]) -> list[Action]:
        """The receiver has slots for blocks. A grant of another attempt, or one that came before, is void."""
        if attempt != self.attempt or self.state is not State.TRANSFERRING or not self.attached:
            return []
        failure = self._take(blocks)
        return self._next_write() if failure is None else failure

    def written(self, error: str | None = None) -> list[Action]:
        """The block of the last `Write` is in its slot, or could not be written."""
        block, self._writing = self._writing, None
        if self._closing is not None:
            return self._close(self._closing)
        if self._greeting:
            self._greeting = False
            return self._greet()
        if not self.attached or self.state is not State.TRANSFERRING:
            return []
        if error is not None:
            # The way to this stream's buffers is broken: the receiver is to make another.
            self._granted.clear()
            return [Rejected(Unreachable.code, f"a block could not be written: {error}")]
        return [SayBlock(self.attempt, block), *self._next_write()]

    def closed(self, state: State) -> list[Action]:
        """The receiver releases the transfer (SUCCESS) or cancels it (FAILED)."""
        if self.writing:
            self._closing = self._closing or state
            self._granted.clear()
            return []
        return self._close(state)

    def detached(self, now: float) -> list[Action]:
        """The receiver's stream is gone; it may come back on another one."""
        if self.attached:
            self.attached, self._detached = False, now
            self._granted.clear()
        return []

    def tick(self, now: float, retention_seconds: float) -> list[Action]:
        """Forget a transfer whose receiver has not come back in time."""
        if self.attached or self.attempt == 0 or now - self._detached < retention_seconds:
            return []
        self.state = State.FAILED
        return [Forget()]

    def _close(self, state: State) -> list[Action]:
        self.state = state
        return [Closed(self.transfer), Forget()]

    def _greet(self) -> list[Action]:
        accepted = Accepted(self.transfer, self.attempt)
        if not self.attached:
            return []
        if self.state is State.TRANSFERRING:
            return [accepted, *self._next_write(), SayReady(self.attempt)]
        return [self._failure()] if self.state is State.FAILED else [accepted]

    def _failure(self) -> Failed:
        return Failed(self.transfer, self.attempt, self._error.code, str(self._error))

    def _take(self, blocks: Sequence[GrantedBlock]) -> list[Action] | None:
        """Note blocks to be written; if there can be no such blocks, what to do instead."""
        for block in blocks:
            if not (0 <= block.first < block.end <= self._tokens):
                return self.fail(ProtocolError(f"tokens {block.first} to {block.end - 1} were granted, of "
                                               f"{self._tokens}: the two sides count differently"))
        fresh = [block for block in blocks if block.number not in self._seen]
        self._seen.update(block.number for block in fresh)
        self._granted.extend(fresh)
        return None

    def _next_write(self) -> list[Action]:
        if self.writing or self._greeting or not self._granted or self.state is not State.TRANSFERRING:
            return []
        self._writing = self._granted.popleft()
        return [Write(self._writing)]
