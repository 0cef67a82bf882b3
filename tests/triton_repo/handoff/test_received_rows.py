"""Blocks on the language side: what is checked of them, and where their rows go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.encode_jobs import DESCRIPTION, make_job, rows_of
from triton_repo.handoff.bulk import checksum
from triton_repo.handoff.errors import TransportFailed
from triton_repo.handoff.messages import Block, Ready
from triton_repo.handoff.received_rows import ReceivedRows
from triton_repo.handoff.transports.grpc_payload import PayloadBuffers

JOB = make_job(1)
TOKENS = DESCRIPTION.tokens(JOB.grid)
PER_TOKEN, HIDDEN = DESCRIPTION.rows_per_token, DESCRIPTION.hidden
BUFFERS = PayloadBuffers(2, TOKENS * DESCRIPTION.token_bytes)
ROWS = rows_of(JOB)


def block_of(first: int, tokens: int) -> tuple[Block, np.ndarray]:
    payload = ROWS[first * PER_TOKEN:(first + tokens) * PER_TOKEN].reshape(-1).view(np.uint8)
    return Block("t", 1, "e", JOB.image_hash.hex(), 1, 0, first, tokens, tokens * PER_TOKEN, HIDDEN, "FP32",
                 checksum(payload)), payload


@pytest.fixture
def received() -> ReceivedRows:
    received = ReceivedRows(JOB, DESCRIPTION)
    received.array[:] = -1
    return received


def test_rows_of_a_block_go_to_its_tokens_and_nowhere_else(received) -> None:
    assert received.tokens == TOKENS and received.array.shape == ROWS.shape
    assert received.read(*block_of(3, 5), BUFFERS)
    expected = np.full_like(ROWS, -1)
    expected[3 * PER_TOKEN:8 * PER_TOKEN] = ROWS[3 * PER_TOKEN:8 * PER_TOKEN]
    np.testing.assert_array_equal(received.array, expected)


def test_block_of_another_image_or_with_another_checksum_is_not_intact(received) -> None:
    block, payload = block_of(0, 2)
    assert not received.read(replace(block, image_hash="00" * 32), payload, BUFFERS)
    assert not received.read(replace(block, checksum=block.checksum ^ 1), payload, BUFFERS)
    damaged = payload.copy()
    damaged[-1] ^= 1
    assert not received.read(block, damaged, BUFFERS)
    assert received.read(block, payload, BUFFERS)


def test_block_that_the_transport_has_not_got_is_not_intact(received) -> None:
    block, payload = block_of(0, 2)
    with pytest.raises(TransportFailed):
        BUFFERS.read(0, payload[:-1], payload.copy())
    assert not received.read(block, payload[:-1], BUFFERS)
    assert not received.read(block, None, BUFFERS)


def test_memory_is_mapped_once() -> None:
    received = ReceivedRows(JOB, DESCRIPTION)
    received.map_memory()
    received.read(*block_of(0, TOKENS), BUFFERS)
    received.map_memory()
    np.testing.assert_array_equal(received.array, ROWS)


@pytest.mark.parametrize("change, text", [
    ({"tokens": 3}, "tokens 3, expected 4"), ({"rows": 12}, "rows 12, expected 16"),
    ({"hidden": 64}, "hidden size 64, expected 32"), ({"dtype": "FP16"}, "dtype 'FP16', expected 'FP32'")])
def test_other_rows_are_a_mismatch_that_names_what_differs(received, change: dict, text: str) -> None:
    ready = Ready("t", 1, "e", 4, 4 * PER_TOKEN, HIDDEN, "FP32")
    assert received.mismatch(ready, 4) is None
    message = str(received.mismatch(replace(ready, **change), 4))
    assert text in message and str(JOB.grid) in message and ";" not in message
