"""When the receiver asks again, and when it gives up."""

from __future__ import annotations

import pytest

from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.errors import CorruptBlock, Unreachable
from triton_repo.handoff.receiver_patience import Patience, Setbacks

GONE = Unreachable("gone")


@pytest.fixture
def setbacks() -> Setbacks:
    setbacks = Setbacks(Patience(stall_seconds=10, attempts=2, corrupt_blocks=3))
    setbacks.wait_from(100)
    return setbacks


def test_wait_doubles_until_a_block_comes(setbacks) -> None:
    for wait in (10, 20):
        assert not setbacks.stalled(99 + wait) and setbacks.stalled(100 + wait)
        assert setbacks.ask_again() is None
    setbacks.heard(200)
    assert not setbacks.stalled(239) and setbacks.stalled(240)
    setbacks.got_block()
    assert not setbacks.stalled(209) and setbacks.stalled(210)


def test_wait_is_short_again_with_other_rows(setbacks) -> None:
    setbacks.ask_again()
    setbacks.got_encoding()
    assert setbacks.stalled(110)


def test_gives_up_when_nothing_is_answered(setbacks) -> None:
    assert setbacks.ask_again() is None and setbacks.ask_again() is None
    error = setbacks.ask_again()
    assert isinstance(error, Unreachable) and "2 times, the last time for 40 s" in str(error)


def test_an_answer_is_enough_to_go_on_asking(setbacks) -> None:
    for now in range(5):
        assert setbacks.ask_again() is None and setbacks.ask_again() is None
        setbacks.heard(now)


def test_gives_up_after_lost_streams_without_a_block_in_between(setbacks) -> None:
    assert setbacks.lost_stream(GONE) is None and setbacks.lost_stream(GONE) is None
    setbacks.heard(101)
    setbacks.got_encoding()
    assert setbacks.lost_stream(GONE) is GONE
    setbacks.got_block()
    assert setbacks.lost_stream(GONE) is None


def test_gives_up_after_damaged_blocks_whatever_comes_in_between(setbacks) -> None:
    for number in (1, 2):
        assert setbacks.damaged(GrantedBlock(number, 0, 3, 4)) is None
        setbacks.got_block()
    error = setbacks.damaged(GrantedBlock(3, 0, 3, 4))
    assert isinstance(error, CorruptBlock) and setbacks.corrupt == 3
    assert "3 blocks" in str(error) and "tokens 3 to 6" in str(error)
