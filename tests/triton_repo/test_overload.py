"""A server that gets more than it can take: each request too many gets a clear error, and nothing of it stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from client.errors import Busy
from tests.support.pictures import png
from tests.support.server import ENDLESS, LIMITS, SLOTS, LiveServer, infer_input
from tests.support.talking_checkpoint import EMOJI, SENTENCES
from triton_repo.repository import WHOLE

SECONDS = 60
AT_ONCE = 40


@contextmanager
def full(server: LiveServer) -> Iterator[None]:
    """Every slot and place in the queue is taken."""
    server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    fillers = [server.chat().stream(f"endless {i}", max_tokens=ENDLESS) for i in range(SLOTS + LIMITS["queue"])]
    try:
        server.wait_for(lambda metrics: metrics["decoder_queued_requests"] == LIMITS["queue"])
        yield
    finally:
        for filler in fillers:
            filler.cancel()
        server.wait_for(lambda metrics: metrics["decoder_queued_requests"] + metrics["decoder_active_slots"] == 0)


def refusals(ask: Callable[[int], object], count: int) -> list[str]:
    """What as many requests at once are told; each must be refused as one too many."""
    def refused(i: int) -> str:
        with pytest.raises(Busy) as error:
            ask(i)
        return str(error.value)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(refused, range(count)))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("images", [0, 3])
def test_a_full_server_refuses_and_serves_again(live_server: LiveServer, protocol: str, images: int) -> None:
    chat = live_server.chat(protocol, timeout=SECONDS)
    with full(live_server):
        messages = refusals(lambda i: chat.ask(f"question {i}", [png(i)] * images, max_tokens=5), 60)
    assert all("limit (queue) allows: try again later" in message or "maximum queue size" in message
               for message in messages)
    assert any(message.startswith(f"server busy: {LIMITS['queue']} requests ") for message in messages)
    answers = [chat.ask(f"question {i}", [png(i)] * images, max_tokens=5) for i in range(3)]
    assert {answer.finish_reason for answer in answers} == {"length"}


def test_requests_that_wait_for_a_whole_answer_are_limited_too(live_server: LiveServer) -> None:
    live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    client = grpc_client.InferenceServerClient(live_server.grpc_url)
    inputs = [infer_input("prompt", [b"endless"], "BYTES"), infer_input("max_tokens", [ENDLESS], "INT32")]
    errors: list[Exception] = []
    calls = []
    while not errors:
        assert len(calls) < 1000
        calls.append(client.async_infer(WHOLE, inputs, lambda result, error: errors.append(error)))
        if len(calls) >= LIMITS["queue"] + SLOTS:
            live_server.metrics()  # takes long enough for an error to come
    # So many wait, some are being answered.
    assert len(calls) > LIMITS["queue"] + SLOTS
    assert (errors[0].status(), errors[0].message()) == (
        "StatusCode.UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size")
    for call in calls:
        call.cancel()
    live_server.wait_for(lambda metrics: metrics["decoder_queued_requests"] + metrics["decoder_active_slots"] == 0)
    # Cancelled requests leave Triton's own queue one by one, and no metric tells when the last has.
    assert once_there_is_room(lambda: client.infer(
        WHOLE, [infer_input("prompt", [EMOJI.encode()], "BYTES")], client_timeout=SECONDS,
    )).as_numpy("text").item().decode() == SENTENCES[EMOJI]


def once_there_is_room(ask: Callable[[], grpc_client.InferResult]) -> grpc_client.InferResult:
    """The answer, asking again while the server's queue is full."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return ask()
        except InferenceServerException as error:
            if "maximum queue size" not in error.message() or time.monotonic() > deadline:
                raise
        time.sleep(0.1)

