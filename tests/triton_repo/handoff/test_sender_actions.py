"""What the encode side does for a transfer when its state machine says so."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.encode_jobs import DESCRIPTION, make_job, rows_of
from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.encode_task import EncodeTask
from triton_repo.handoff.messages import Accepted, Block, Message, Ready
from triton_repo.handoff.reply import Way
from triton_repo.handoff.sender_actions import SenderActions
from triton_repo.handoff.sender_records import PendingWrite, Transfer
from triton_repo.handoff.sender_transfer import Encode, SayBlock, SayReady, SenderTransfer, Write
from triton_repo.handoff.wire import decode_message

JOB = make_job(1)
TOKENS = DESCRIPTION.tokens(JOB.grid)
BLOCK = GrantedBlock(number=4, slot=2, first=3, tokens=5)


class Reply:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[tuple[Message, np.ndarray | None]] = []
        self.finished = False

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        self.said.append((decode_message(message), payload))

    def finish(self) -> None:
        self.finished = True

    def cancelled(self) -> bool:
        return False


class Session:
    """Keeps what is to be written."""

    id = "s"

    def __init__(self) -> None:
        self.writes: list[PendingWrite] = []

    def write(self, write: PendingWrite) -> None:
        self.writes.append(write)


@pytest.fixture
def reply() -> Reply:
    return Reply()


@pytest.fixture
def delivered() -> list[np.ndarray | Exception]:
    return []


@pytest.fixture
def transfer(reply, delivered) -> Transfer:
    """A transfer whose rows are there."""
    return Transfer(SenderTransfer("t", TOKENS), JOB, TOKENS, Way(reply), Session(), EncodeTask(JOB, delivered.append),
                    rows_of(JOB), "e")


def test_block_to_be_written_has_the_rows_of_its_tokens(transfer) -> None:
    SenderActions(lambda task: None, DESCRIPTION).do(transfer, Write(BLOCK))
    write, = transfer.session.writes
    assert write.transfer is transfer and write.block == BLOCK and write.rows.dtype == np.uint8
    per_token = DESCRIPTION.rows_per_token
    np.testing.assert_array_equal(write.rows.view(np.float32).reshape(-1, DESCRIPTION.hidden),
                                  rows_of(JOB)[3 * per_token:8 * per_token])


def test_messages_about_rows_say_of_which_shape_and_encoding_they_are(transfer, reply) -> None:
    actions, payload = SenderActions(lambda task: None, DESCRIPTION), np.arange(3, dtype=np.uint8)
    actions.do(transfer, SayReady(6))
    actions.do(transfer, SayBlock(6, BLOCK), payload, 77)
    actions.do(transfer, Accepted("t", 6))
    per_token, hidden = DESCRIPTION.rows_per_token, DESCRIPTION.hidden
    assert [message for message, _ in reply.said] == [
        Ready("t", 6, "e", TOKENS, TOKENS * per_token, hidden, "FP32"),
        Block("t", 6, "e", JOB.image_hash.hex(), 4, 2, 3, 5, 5 * per_token, hidden, "FP32", 77),
        Accepted("t", 6)]
    assert [sent is payload for _, sent in reply.said] == [False, True, False]


def test_job_is_given_to_the_encoder(transfer, delivered) -> None:
    given: list[EncodeTask] = []
    SenderActions(given.append, DESCRIPTION).do(transfer, Encode())
    assert given == [transfer.task] and delivered == []


def test_encoder_that_does_not_take_a_job_is_its_outcome(transfer, delivered) -> None:
    error = RuntimeError("no room")

    def refuse(task: EncodeTask) -> None:
        raise error

    SenderActions(refuse, DESCRIPTION).do(transfer, Encode())
    assert delivered == [error]


def test_transfer_that_is_let_go_of_has_no_rows_and_says_nothing_more(transfer, reply, delivered) -> None:
    transfer.let_go()
    assert transfer.rows is None and transfer.task.cancelled() and reply.finished
    SenderActions(lambda task: None, DESCRIPTION).do(transfer, SayReady(1))
    transfer.task.deliver(rows_of(JOB))
    assert reply.said == [] and delivered == []
