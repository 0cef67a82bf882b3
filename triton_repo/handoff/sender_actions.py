"""What the encode side does for a transfer when its state machine says so: encode, write, say."""

from __future__ import annotations

import logging

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.encode_task import Encoder
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.messages import Message
from triton_repo.handoff.sender_records import PendingWrite, Transfer
from triton_repo.handoff.sender_transfer import Encode, SayBlock, SayReady, Write

log = logging.getLogger(__name__)


class SenderActions:
    """Used from any thread, without the lock of the transfers.

    Args:
        encode: gets each job.
        description: the rows that it makes.
    """

    def __init__(self, encode: Encoder, description: RowsDescription) -> None:
        self._encode, self._description = encode, description

    def do(self, transfer: Transfer, action: Message | Encode | Write | SayReady | SayBlock,
           payload: np.ndarray | None = None, digest: int = 0) -> None:
        """Do one thing.

        Args:
            payload: for `SayBlock`: what is to go with the message, uint8 [bytes], if anything is.
            digest: for `SayBlock`: the checksum of the block's rows.
        """
        match action:
            case Encode():
                self._start(transfer)
            case Write(block):
                self._write(transfer, block)
            case SayReady(attempt):
                transfer.way.send(messages.Ready(transfer.machine.transfer, attempt, transfer.encoding,
                                                 transfer.tokens, *self._type(transfer.tokens)))
            case SayBlock(attempt, block):
                message = messages.Block(
                    transfer.machine.transfer, attempt, transfer.encoding, transfer.job.image_hash.hex(),
                    block.number, block.slot, block.first, block.tokens, *self._type(block.tokens), digest)
                transfer.way.send(message, payload)
            case Message():
                transfer.way.send(action)

    def _type(self, tokens: int) -> tuple[int, int, str]:
        """Rows, hidden size and dtype, as messages say them."""
        return tokens * self._description.rows_per_token, self._description.hidden, self._description.dtype

    def _start(self, transfer: Transfer) -> None:
        try:
            self._encode(transfer.task)
        except Exception as error:
            log.exception("a job could not be given to the encoder")
            transfer.task.deliver(error)

    def _write(self, transfer: Transfer, block: GrantedBlock) -> None:
        rows = self._description.rows_per_token
        data = transfer.rows[block.first * rows:block.end * rows].reshape(-1).view(np.uint8)
        transfer.session.write(PendingWrite(transfer, block, data))
