"""What the encode side keeps of a transfer, and tells of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.encode_task import EncodeTask
from triton_repo.handoff.job import EncodeJob
from triton_repo.handoff.reply import Way
from triton_repo.handoff.sender_transfer import SenderTransfer
from triton_repo.handoff.states import State


class Session(Protocol):
    """The stream that a transfer belongs to: see `sender_sessions.Session`."""

    id: str

    def write(self, write: PendingWrite) -> None:
        """Have a block written; `SenderTransfers.written` is to be called after it."""


@dataclass(frozen=True)
class SenderStats:
    """Attributes:
        transfers: that are not over.
        outstanding_rows: of these, still to be encoded or sent to receivers that are there: who chooses among encode
            servers by it shall not avoid one for a while because of receivers that are gone.
        held_bytes: encoded rows that wait to be fetched.
        sent_blocks, sent_bytes: since the start.
        succeeded, failed: transfers that are over, by how they ended.
    """

    transfers: int
    outstanding_rows: int
    held_bytes: int
    sent_blocks: int
    sent_bytes: int
    succeeded: int
    failed: int


@dataclass(eq=False)
class Transfer:
    """A transfer with what belongs to it."""

    machine: SenderTransfer
    job: EncodeJob
    tokens: int
    way: Way
    session: Session
    task: EncodeTask | None = None
    rows: np.ndarray | None = None
    encoding: str = ""
    sent_tokens: int = 0

    def let_go(self) -> None:
        """It is over: nobody waits for its rows, and nothing more is said of it."""
        self.task.cancel()
        self.rows = None
        self.way.finish()


@dataclass(frozen=True)
class PendingWrite:
    """A block to be written.

    Attributes:
        rows: its bytes, uint8 [bytes].
    """

    transfer: Transfer
    block: GrantedBlock
    rows: np.ndarray


# The block; a payload that is to go with its message; the checksum of its rows; why it could not be written, if so.
OnWritten = Callable[[PendingWrite, np.ndarray | None, int, str | None], None]


@dataclass
class Totals:
    """Since the start; `ended` by how transfers ended."""

    blocks: int = 0
    bytes: int = 0
    ended: dict[State, int] = field(default_factory=lambda: {State.SUCCESS: 0, State.FAILED: 0})
