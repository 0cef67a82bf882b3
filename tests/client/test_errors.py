"""Which error a server's answer becomes."""

from __future__ import annotations

import pytest

from client.errors import BadRequest, Busy, ServerError, ServerUnavailable, TimedOut, error_from
from triton_repo.error_messages import BUSY_PREFIX, INTERNAL_PREFIX, TRITON_BUSY, status_code


@pytest.mark.parametrize("code,message,kind", [
    (None, "in ensemble 'qwen3_vl_moe', max_tokens is 0", BadRequest),
    (None, f"in ensemble 'qwen3_vl_moe', {BUSY_PREFIX}4 requests are waiting", Busy),
    (None, f"[request id: <id_unknown>] {TRITON_BUSY}", Busy),
    ("UNAVAILABLE", f"in ensemble 'qwen3_vl_moe', [request id: 7] {TRITON_BUSY}", Busy),
    (None, f"in ensemble 'qwen3_vl_moe', {INTERNAL_PREFIX}the decoder failed", ServerError),
    (400, f"in ensemble 'qwen3_vl_moe', {BUSY_PREFIX}4 requests are waiting", Busy),
    (400, f"{INTERNAL_PREFIX}the decoder failed", ServerError),
    (400, "in ensemble 'qwen3_vl_moe', Stub process 'decoder_0_0' is not healthy.", ServerError),
    (400, "max_tokens is 0", BadRequest),
    (404, "Request for unknown model: 'other' is not found", ServerUnavailable),
    (400, "Request for unknown model: 'other' is not found", ServerUnavailable),
    (500, "something broke", ServerError),
    ("UNAVAILABLE", "failed to connect to all addresses", ServerUnavailable),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", TimedOut),
    ("UNKNOWN", "who knows", ServerError),
])
def test_kind(code: str | int | None, message: str, kind: type) -> None:
    assert type(error_from(code, message)) is kind


def test_message_is_the_servers_without_its_plumbing() -> None:
    assert str(error_from(None, "in ensemble 'qwen3_vl_moe', max_tokens is 0")) == "max_tokens is 0"


@pytest.mark.parametrize("message,code", [
    (f"in ensemble 'x', {BUSY_PREFIX}later", "UNAVAILABLE"), (f"[request id: x] {TRITON_BUSY}", "UNAVAILABLE"),
    (f"in ensemble 'x', {INTERNAL_PREFIX}oh", "INTERNAL"),
    ("in ensemble 'x', max_tokens is 0", "INVALID_ARGUMENT")])
def test_whole_answers_get_the_code_that_the_message_tells(message: str, code: str) -> None:
    assert status_code(message) == code
