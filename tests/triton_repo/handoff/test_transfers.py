"""Steps of the two state machines that random interleavings seldom reach."""

from __future__ import annotations

import pytest

from tests.support.encode_jobs import make_job
from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.errors import CorruptBlock, EncodeFailed, Unreachable
from triton_repo.handoff.messages import (
    Accepted,
    Block,
    Cancel,
    Closed,
    Failed,
    Grant,
    Rejected,
    Release,
    Request,
    Resume,
)
from triton_repo.handoff.receiver_patience import Patience
from triton_repo.handoff.receiver_transfer import ReceiverTransfer, Step
from triton_repo.handoff.sender_transfer import Encode, Forget, SayBlock, SayReady, SenderTransfer, Write
from triton_repo.handoff.states import State

JOB = make_job(1)


def block_of(number: int, slot: int, first: int, tokens: int, attempt: int = 1, encoding: str = "e") -> Block:
    return Block("t", attempt, encoding, JOB.image_hash.hex(), number, slot, first, tokens, 4 * tokens, 32, "FP32", 0)


@pytest.fixture
def receiver() -> ReceiverTransfer:
    """Ten tokens, three to a slot, rows ready, slots 0 and 1 granted."""
    transfer = ReceiverTransfer("t", JOB, 10, Patience(stall_seconds=10, attempts=2, corrupt_blocks=3))
    assert transfer.state is State.BOOTSTRAPPING
    step = transfer.stream_opened("s", 3, 0)
    assert step.send == (Request("s", "t", 1, JOB.request_id, JOB.image_hash.hex(), "image", JOB.grid, ()),)
    transfer.accepted(1, 0)
    assert transfer.state is State.WAITING and transfer.wanted == 0
    transfer.ready(1, "e", 0)
    assert transfer.state is State.TRANSFERRING and transfer.wanted == 4
    assert transfer.grant([0, 1], 0).send == (Grant("t", 1, ((1, 0, 0, 3), (2, 1, 3, 3))),)
    return transfer


def test_receiver_grants_what_fits_and_ends_with_a_release(receiver) -> None:
    assert receiver.wanted == 2
    assert receiver.read(block_of(1, 0, 0, 3), True, 1) == Step(free=(0,))
    assert receiver.grant([0, 2, 3], 1) == Step((Grant("t", 1, ((3, 0, 6, 3), (4, 2, 9, 1))),), (3,))
    for block in (block_of(4, 2, 9, 1), block_of(2, 1, 3, 3)):
        assert receiver.expects(block)
        assert receiver.read(block, True, 1) == Step(free=(block.slot,))
    assert receiver.read(block_of(3, 0, 6, 3), True, 1) == Step((Release("t"),), (0,))
    assert receiver.state is State.SUCCESS and receiver.held == ()


@pytest.mark.parametrize("block", [
    block_of(3, 0, 0, 3), block_of(1, 1, 0, 3), block_of(1, 0, 3, 3), block_of(1, 0, 0, 2), block_of(1, 0, 0, 3, 2),
    block_of(1, 0, 0, 3, 1, "f")])
def test_receiver_reads_only_what_it_granted(receiver, block: Block) -> None:
    assert receiver.expects(block_of(1, 0, 0, 3))
    assert not receiver.expects(block)


def test_receiver_reads_a_block_once(receiver) -> None:
    receiver.read(block_of(1, 0, 0, 3), True, 1)
    assert not receiver.expects(block_of(1, 0, 0, 3))


def test_slots_of_a_stall_come_back_with_the_answer_to_the_next_attempt_alone(receiver) -> None:
    assert receiver.tick(9, ) == Step()
    assert receiver.tick(10) == Step((Resume("s", "t", 2),))
    assert receiver.held == (1, 0) and receiver.wanted == 0
    assert receiver.accepted(1, 10) == Step()
    assert receiver.failed(1, EncodeFailed("of the first attempt")) == Step()
    assert receiver.accepted(2, 10) == Step(free=(1, 0))
    assert not receiver.expects(block_of(1, 0, 0, 3))
    receiver.ready(2, "e", 10)
    assert receiver.grant([5], 10).send == (Grant("t", 2, ((3, 5, 0, 3),)),)


def test_each_stall_without_a_block_waits_twice_as_long(receiver) -> None:
    now = 0.0
    for wait in (10, 20, 40):
        assert receiver.tick(now + wait - 1) == Step()
        now += wait
        assert isinstance(receiver.tick(now).send[0], Resume)
        receiver.ready(receiver.attempt, "e", now)
    receiver.grant([7], now)
    receiver.read(block_of(3, 7, 0, 3, receiver.attempt), True, now)
    assert isinstance(receiver.tick(now + 10).send[0], Resume)


def test_receiver_gives_up_when_nobody_answers(receiver) -> None:
    receiver.tick(10)
    receiver.tick(30)
    assert receiver.tick(70).send == (Cancel("t"),)
    assert isinstance(receiver.error, Unreachable) and receiver.state is State.FAILED
    assert sorted(receiver.held) == [0, 1], "the sender may still write"


def test_receiver_gives_up_after_lost_streams(receiver) -> None:
    receiver.stream_lost(Unreachable("gone"), 1)
    receiver.stream_opened("s2", 3, 1)
    receiver.ready(2, "e", 1)
    receiver.grant([0], 1)
    receiver.read(block_of(3, 0, 0, 3, 2), True, 1)
    for attempt in (3, 4):
        assert receiver.stream_lost(Unreachable("gone"), 1) == Step()
        assert receiver.held == () and receiver.state is State.BOOTSTRAPPING
        receiver.stream_opened("s3", 3, 1)
        receiver.ready(attempt, "e", 1)
    receiver.stream_lost(Unreachable("gone"), 1)
    assert str(receiver.error) == "gone"


def test_other_stream_with_smaller_slots_fetches_what_is_missing(receiver) -> None:
    receiver.read(block_of(1, 0, 0, 3), True, 1)
    receiver.stream_lost(Unreachable("gone"), 1)
    assert receiver.stream_opened("s2", 2, 1).send == (Resume("s2", "t", 2),)
    receiver.ready(2, "e", 1)
    assert receiver.grant([0, 1, 2, 3], 1).send == (
        Grant("t", 2, ((3, 0, 3, 2), (4, 1, 5, 1), (5, 2, 6, 2), (6, 3, 8, 2))),)


def test_rows_of_another_encoding_void_all_that_came_before(receiver) -> None:
    receiver.read(block_of(1, 0, 0, 3), True, 1)
    step = receiver.ready(1, "f", 1)
    assert step == Step((Resume("s", "t", 2),)), "slot 1 is still granted"
    assert receiver.ready(2, "f", 1) == Step(free=(1,))
    assert receiver.grant([0], 1).send == (Grant("t", 2, ((3, 0, 0, 3),)),)


def test_blocks_granted_with_the_request_may_come_before_any_other_word() -> None:
    transfer = ReceiverTransfer("t", JOB, 10, Patience(stall_seconds=10, attempts=2, corrupt_blocks=3))
    assert transfer.early(3) == 2 and transfer.early(10) == 1
    request, = transfer.stream_opened("s", 3, 0, [4, 5]).send
    assert request.blocks == ((1, 4, 0, 3), (2, 5, 3, 3)) and transfer.held == (4, 5) and transfer.wanted == 0
    first = block_of(1, 4, 0, 3)
    assert not transfer.expects(first)
    assert transfer.announced(block_of(1, 4, 0, 3, attempt=2), 1) == Step() and not transfer.expects(first)
    assert transfer.announced(first, 1) == Step() and transfer.expects(first) and transfer.wanted == 2
    assert transfer.accepted(1, 1) == transfer.ready(1, "e", 1) == Step(), "said late"
    assert transfer.read(first, True, 1) == Step(free=(4,))
    assert transfer.grant([4, 6], 1).send == (Grant("t", 1, ((3, 4, 6, 3), (4, 6, 9, 1))),)


def test_early_grants_are_void_after_a_stall_and_not_given_with_a_resume() -> None:
    transfer = ReceiverTransfer("t", JOB, 10, Patience(stall_seconds=10, attempts=2, corrupt_blocks=3))
    transfer.stream_opened("s", 3, 0, [4, 5])
    transfer.accepted(1, 0)
    assert transfer.tick(10) == Step((Resume("s", "t", 2),)) and sorted(transfer.held) == [4, 5]
    assert sorted(transfer.accepted(2, 10).free) == [4, 5] and transfer.early(3) == 0
    assert transfer.announced(block_of(1, 4, 0, 3), 10) == Step() and not transfer.expects(block_of(1, 4, 0, 3))


def test_early_blocks_of_another_encoding_than_before_are_not_mixed_with_it() -> None:
    transfer = ReceiverTransfer("t", JOB, 10, Patience(stall_seconds=10, attempts=2, corrupt_blocks=3))
    transfer.stream_opened("s", 3, 0, [0])
    transfer.announced(block_of(1, 0, 0, 3), 0)
    transfer.read(block_of(1, 0, 0, 3), True, 0)
    transfer.unknown(1, 0)
    transfer.stream_lost(Unreachable("gone"), 1)
    request, = transfer.stream_opened("s2", 3, 1, [0, 1]).send
    assert request.blocks == ((2, 0, 3, 3), (3, 1, 6, 3))
    late = block_of(2, 0, 3, 3, attempt=3, encoding="f")
    assert transfer.announced(late, 1) == Step((Resume("s2", "t", 4),)) and not transfer.expects(late)
    transfer.ready(4, "f", 1)
    assert transfer.grant([5], 1).send == (Grant("t", 4, ((4, 5, 0, 3),)),), "from the first token"


def test_unknown_transfer_is_asked_for_anew(receiver) -> None:
    receiver.tick(10)
    step = receiver.unknown(2, 10)
    assert isinstance(step.send[0], Request) and step.send[0].attempt == 3 and sorted(step.free) == [0, 1]


def test_grants_to_a_sender_that_has_forgotten_are_void(receiver) -> None:
    step = receiver.unknown(1, 1)
    assert isinstance(step.send[0], Request) and step.free == () and sorted(receiver.held) == [0, 1]
    assert receiver.ready(2, "f", 1).free == (1, 0)
    assert receiver.grant([0], 1).send == (Grant("t", 2, ((3, 0, 0, 3),)),)


def test_corrupt_blocks_are_asked_for_again_and_counted(receiver) -> None:
    assert receiver.read(block_of(1, 0, 0, 3), False, 1) == Step(free=(0,))
    assert receiver.grant([0], 1).send == (Grant("t", 1, ((3, 0, 0, 3),)),)
    receiver.read(block_of(3, 0, 0, 3), False, 1)
    receiver.grant([0], 1)
    assert receiver.read(block_of(4, 0, 0, 3), False, 1) == Step((Cancel("t"),), (0,))
    assert isinstance(receiver.error, CorruptBlock)
    assert receiver.held == (1,)


def test_failure_at_the_sender_frees_all_slots(receiver) -> None:
    assert receiver.failed(1, EncodeFailed("broke")) == Step((Cancel("t"),), (0, 1))
    assert receiver.held == ()


# ---- the encode side

FIRST, SECOND = GrantedBlock(1, 0, 0, 3), GrantedBlock(2, 1, 3, 3)


@pytest.fixture
def sender() -> SenderTransfer:
    """Ten tokens, the first block being written, the second granted."""
    transfer = SenderTransfer("t", 10)
    assert transfer.state is State.BOOTSTRAPPING
    assert transfer.asked(1) == [Encode(), Accepted("t", 1)]
    assert transfer.state is State.WAITING
    assert transfer.granted(1, [FIRST]) == []
    assert transfer.encoded() == [SayReady(1)]
    assert transfer.state is State.TRANSFERRING
    assert transfer.granted(1, [FIRST, SECOND]) == [Write(FIRST)]
    return transfer


def test_sender_writes_one_block_at_a_time(sender) -> None:
    assert sender.written() == [SayBlock(1, FIRST), Write(SECOND)]
    assert sender.written() == [SayBlock(1, SECOND)]
    assert sender.closed(State.SUCCESS) == [Closed("t"), Forget()]


def test_sender_writes_what_was_granted_with_the_request_as_soon_as_there_are_rows() -> None:
    some, all_ = SenderTransfer("t", 10), SenderTransfer("t", 6)
    for transfer in (some, all_):
        assert transfer.asked(1, [FIRST, SECOND]) == [Encode(), Accepted("t", 1)]
    assert some.encoded() == [Write(FIRST), SayReady(1)]
    assert all_.encoded() == [Write(FIRST)], "the blocks say it"
    assert all_.written() == [SayBlock(1, FIRST), Write(SECOND)]


def test_request_of_a_transfer_that_is_known_brings_grants_too(sender) -> None:
    third = GrantedBlock(3, 0, 6, 3)
    assert sender.asked(2, [third]) == []
    assert sender.written() == [Accepted("t", 2), Write(third), SayReady(2)]


def test_early_grant_of_tokens_that_are_not_there_ends_the_transfer() -> None:
    failed, = SenderTransfer("t", 10).asked(1, [GrantedBlock(1, 0, 8, 3)])
    assert failed.code == "protocol_error" and "of 10" in failed.text


def test_sender_ignores_what_it_has_seen_and_what_is_over(sender) -> None:
    sender.written()
    sender.written()
    assert sender.granted(1, [FIRST, SECOND]) == []
    assert sender.asked(1) == []
    assert sender.asked(2) == [Accepted("t", 2), SayReady(2)]
    assert sender.granted(1, [GrantedBlock(3, 0, 6, 3)]) == [], "of an earlier attempt"
    assert sender.granted(2, [GrantedBlock(4, 0, 6, 3)]) == [Write(GrantedBlock(4, 0, 6, 3))]


def test_answer_to_a_new_attempt_waits_for_the_block_being_written(sender) -> None:
    assert sender.asked(2) == []
    assert sender.written() == [Accepted("t", 2), SayReady(2)]
    assert sender.granted(2, [GrantedBlock(3, 0, 0, 3)]) == [Write(GrantedBlock(3, 0, 0, 3))]


@pytest.mark.parametrize("state", [State.SUCCESS, State.FAILED])
def test_closing_waits_for_the_block_being_written(sender, state: State) -> None:
    assert sender.closed(state) == []
    assert sender.asked(2) == []
    assert sender.written() == [Closed("t"), Forget()]
    assert sender.state is state


def test_block_that_cannot_be_written_ends_the_stream(sender) -> None:
    assert sender.written("no such memory") == [Rejected("unreachable", "a block could not be written: no such memory")]
    sender.detached(1)
    assert sender.asked(2) == [Accepted("t", 2), SayReady(2)]


@pytest.mark.parametrize("wrong", [GrantedBlock(5, 0, 8, 3), GrantedBlock(5, 0, -1, 3), GrantedBlock(5, 0, 3, 0)])
def test_grant_of_tokens_that_are_not_there_ends_the_transfer(sender, wrong: GrantedBlock) -> None:
    assert sender.granted(1, [wrong]) == [], "the first block is being written"
    failed, = sender.written()
    assert failed.code == "protocol_error" and "of 10" in failed.text


def test_failure_is_told_to_whoever_comes_back(sender) -> None:
    fresh = SenderTransfer("t", 10)
    fresh.asked(1)
    fresh.detached(5)
    assert fresh.fail(EncodeFailed("broke")) == []
    assert fresh.asked(2) == [Failed("t", 2, "encode_failed", "broke")]


def test_detached_transfer_is_kept_for_its_retention(sender) -> None:
    sender.detached(100)
    assert sender.written() == []
    assert sender.tick(129, 30) == []
    assert sender.asked(2) == [Accepted("t", 2), SayReady(2)]
    assert sender.tick(1000, 30) == []
    sender.detached(1000)
    assert sender.tick(1030, 30) == [Forget()]
    assert sender.state is State.FAILED
