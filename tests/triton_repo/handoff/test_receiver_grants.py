"""Which tokens are missing, which blocks are granted and which slots are held."""

from __future__ import annotations

import pytest

from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.receiver_grants import ReceiverGrants

FIRST, SECOND = GrantedBlock(1, 7, 0, 3), GrantedBlock(2, 5, 3, 3)


@pytest.fixture
def grants() -> ReceiverGrants:
    """Ten tokens, three to a block, the first two of four granted."""
    grants = ReceiverGrants(10)
    assert grants.missing_blocks(3) == 4 and grants.missing_blocks(10) == 1 and not grants.complete
    assert grants.grant([7, 5], 3) == [FIRST, SECOND]
    return grants


def test_last_block_has_the_tokens_that_are_left(grants) -> None:
    assert grants.missing_blocks(3) == 2
    assert grants.grant([1, 2], 3) == [GrantedBlock(3, 1, 6, 3), GrantedBlock(4, 2, 9, 1)]
    assert grants.missing_blocks(3) == 0 and len(grants) == 4 and grants.held == (7, 5, 1, 2)


@pytest.mark.parametrize("other", [GrantedBlock(3, 7, 0, 3), GrantedBlock(1, 5, 0, 3), GrantedBlock(1, 7, 1, 3),
                                   GrantedBlock(1, 7, 0, 2)])
def test_contains_what_was_granted_as_it_was_granted(grants, other: GrantedBlock) -> None:
    assert FIRST in grants and other not in grants


def test_complete_when_every_block_was_read(grants) -> None:
    assert grants.read(1, True) == FIRST
    assert FIRST not in grants and grants.held == (5,)
    grants.grant([7], 4)
    grants.read(3, True)
    assert not grants.complete, "one is granted"
    grants.read(2, True)
    assert grants.complete and grants.held == () and len(grants) == 0


def test_damaged_block_is_missing_again_and_the_next_to_be_granted(grants) -> None:
    assert grants.read(2, False) == SECOND
    assert grants.held == (7,) and grants.missing_blocks(3) == 3
    assert grants.grant([5], 3) == [GrantedBlock(3, 5, 3, 3)]


def test_slots_of_revoked_grants_are_held_until_the_sender_knows(grants) -> None:
    grants.revoke()
    assert len(grants) == 0 and FIRST not in grants and sorted(grants.held) == [5, 7]
    third, = grants.grant([1], 3)
    assert third == GrantedBlock(3, 1, 0, 3), "in order, under a new number"
    assert sorted(grants.settle()) == [5, 7]
    assert grants.held == (1,) and grants.settle() == ()


def test_revoked_tokens_are_granted_in_blocks_of_another_size(grants) -> None:
    grants.read(1, True)
    grants.revoke()
    assert [(block.first, block.tokens) for block in grants.grant([0, 1, 2, 3], 2)] == [(3, 2), (5, 1), (6, 2), (8, 2)]


def test_after_a_restart_all_tokens_are_missing(grants) -> None:
    grants.read(1, True)
    grants.restart()
    assert grants.missing_blocks(10) == 1 and grants.held == (5,)
    assert grants.grant([7], 10) == [GrantedBlock(3, 7, 0, 10)]


def test_letting_go_frees_slots_that_are_granted_or_revoked(grants) -> None:
    grants.revoke()
    grants.grant([1], 3)
    assert sorted(grants.let_go()) == [1, 5, 7]
    assert grants.held == () and len(grants) == 0 and grants.settle() == ()
    assert sum(block.tokens for block in grants.grant([0, 1, 2, 3], 3)) == 10, "nothing was read"
