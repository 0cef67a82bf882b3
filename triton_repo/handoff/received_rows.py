"""The rows of one job where they are to be, on the language side: what blocks are checked against and copied to."""

from __future__ import annotations

import numpy as np

from triton_repo.handoff.bulk import checksum
from triton_repo.handoff.errors import TransportFailed, TypeMismatch
from triton_repo.handoff.job import EncodeJob, RowsDescription
from triton_repo.handoff.messages import Block, Ready
from triton_repo.handoff.transports import ReceiveBuffers

PAGE = 4096


class ReceivedRows:
    """Memory for all rows; what of it is filled is not known here.

    Attributes:
        tokens: visual tokens of the job.
        array: the rows [(1 + D) * tokens, hidden].

    Args:
        job: what is wanted.
        description: the rows that are expected.
    """

    def __init__(self, job: EncodeJob, description: RowsDescription) -> None:
        self._job, self._description = job, description
        self.tokens = description.tokens(job.grid)
        self.array = np.empty((self.tokens * description.rows_per_token, description.hidden), description.numpy_dtype)
        self._bytes = self.array.reshape(-1).view(np.uint8)
        self._mapped = False

    def map_memory(self) -> None:
        """Have the memory mapped, which takes as long as writing to it: to be called while there is time, and before
        the first block is read."""
        if not self._mapped:
            self._bytes[::PAGE] = 0
            self._mapped = True

    def mismatch(self, message: Ready | Block, tokens: int) -> TypeMismatch | None:
        """How the rows of a message, which should be of so many `tokens`, differ from those expected, if they do."""
        description = self._description
        expected = (tokens, tokens * description.rows_per_token, description.hidden, description.dtype)
        got = (message.tokens, message.rows, message.hidden, message.dtype)
        if got == expected:
            return None
        names = ("tokens", "rows", "hidden size", "dtype")
        differing = [f"{name} {theirs!r}, expected {ours!r}" for name, theirs, ours in
                     zip(names, got, expected, strict=True) if theirs != ours]
        return TypeMismatch(f"the encode server offers other rows for a grid of {self._job.grid}: "
                            f"{'; '.join(differing)}")

    def read(self, block: Block, payload: np.ndarray | None, buffers: ReceiveBuffers) -> bool:
        """Copy a block out of its slot. Returns whether it is of this job and has its checksum.

        Args:
            payload: of the block's message, uint8 [bytes], if it has one.
        """
        size = self._description.token_bytes
        into = self._bytes[block.first * size:(block.first + block.tokens) * size]
        try:
            # First copied, then checked: what the sender might still do to the slot does not matter.
            buffers.read(block.slot, payload, into)
        except TransportFailed:
            return False
        return block.image_hash == self._job.image_hash.hex() and checksum(into) == block.checksum
