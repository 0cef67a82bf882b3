"""The client against a real server, over every protocol."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from client import (
    AsyncVisionChat,
    BadRequest,
    Busy,
    ChatError,
    ServerUnavailable,
    TimedOut,
    Usage,
    VisionChat,
)
from tests.support.pictures import gif, png
from tests.support.server import ENDLESS, LIMITS, SLOTS, LiveServer

PROTOCOLS = ["grpc", "http"]


@pytest.fixture(params=PROTOCOLS)
def chat(request: pytest.FixtureRequest, live_server: LiveServer) -> VisionChat:
    return live_server.chat(request.param)


@pytest.fixture
def dead_url() -> Iterator[str]:
    """An address of this machine where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


def idle(server: LiveServer) -> dict[str, float]:
    return server.wait_for(lambda metrics: metrics["decoder_active_slots"] + metrics["decoder_queued_requests"] == 0)


def wait_cancelled(server: LiveServer, before: dict[str, float]) -> None:
    server.wait_for(lambda metrics: metrics["cancelled_requests"] == before["cancelled_requests"] + 1)


def test_whole_answer(chat: VisionChat) -> None:
    answer = chat.ask("Hello", max_tokens=12)
    assert (answer.finish_reason, answer.usage) == ("length", Usage(21, 12))
    assert answer.text


def test_stream_joins_to_the_whole_answer(chat: VisionChat) -> None:
    # Long enough that not all of it can pile up before the first piece is sent.
    deltas = list(chat.stream("Hello", max_tokens=500))
    answer = chat.ask("Hello", max_tokens=500)
    assert len(deltas) > 1
    assert "".join(delta.text for delta in deltas) == answer.text
    assert (deltas[-1].finish_reason, deltas[-1].usage) == (answer.finish_reason, answer.usage)
    assert {delta.finish_reason for delta in deltas[:-1]} == {""}


def test_protocols_give_the_same_answer_about_pictures_and_videos(live_server: LiveServer, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    answers = [live_server.chat(protocol).ask("What?", [tmp_path / "a.png", png(2)], [gif(3)], max_tokens=20)
               for protocol in PROTOCOLS]
    assert answers[0] == answers[1]
    assert answers[0] != live_server.chat().ask("What?", [png(2), tmp_path / "a.png"], [gif(3)], max_tokens=20)


def test_messages_and_sampling_arrive(chat: VisionChat) -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    settings = {"max_tokens": 30, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1}
    answers = [chat.ask(messages, [png(1)], seed=seed, **settings).text for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_wrong_request_is_told_and_the_client_goes_on(chat: VisionChat) -> None:
    for ask in (chat.ask, lambda *args, **kwargs: list(chat.stream(*args, **kwargs))):
        with pytest.raises(BadRequest, match=r"^max_tokens is 0, expected"):
            ask("Hello", max_tokens=0)
        with pytest.raises(BadRequest, match=r"^images\[0\]: .*not a readable"):
            ask("Hello", images=[b"no image"])
    assert chat.ask("Hello", max_tokens=1).usage.completion_tokens == 1


def test_missing_server_is_told(dead_url: str) -> None:
    for protocol in PROTOCOLS:
        chat = VisionChat(dead_url, protocol)
        with pytest.raises(ServerUnavailable):
            chat.ask("Hello")
        with pytest.raises(ServerUnavailable):
            list(chat.stream("Hello"))


def test_missing_model_is_told(live_server: LiveServer) -> None:
    for protocol in PROTOCOLS:
        with pytest.raises(ServerUnavailable, match="unknown model: 'other'"):
            live_server.chat(protocol, model="other").ask("Hello")


def test_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="protocol is 'smtp'"):
        VisionChat(protocol="smtp")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_timeout_ends_the_answer_on_both_sides(live_server: LiveServer, protocol: str) -> None:
    before = idle(live_server)
    with pytest.raises(TimedOut):
        list(live_server.chat(protocol, timeout=0.5).stream("Hello", max_tokens=ENDLESS))
    wait_cancelled(live_server, before)


def test_cancel_frees_the_slot_and_ends_the_iteration(chat: VisionChat, live_server: LiveServer) -> None:
    before = idle(live_server)
    stream = chat.stream("Hello", max_tokens=ENDLESS)
    assert next(stream).finish_reason == ""
    stream.cancel()
    assert list(stream) == []
    wait_cancelled(live_server, before)


def test_leaving_the_block_frees_the_slot(chat: VisionChat, live_server: LiveServer) -> None:
    before = idle(live_server)
    with chat.stream("Hello", max_tokens=ENDLESS) as stream:
        next(stream)
    wait_cancelled(live_server, before)


def test_dropping_the_stream_frees_the_slot(chat: VisionChat, live_server: LiveServer) -> None:
    before = idle(live_server)
    for _ in chat.stream("Hello", max_tokens=ENDLESS):
        break
    gc.collect()
    wait_cancelled(live_server, before)


def test_cancel_from_another_thread_wakes_the_reader(chat: VisionChat, live_server: LiveServer) -> None:
    before = idle(live_server)
    stream = chat.stream("Hello", max_tokens=ENDLESS)
    next(stream)
    timer = threading.Timer(0.2, stream.cancel)
    timer.start()
    assert all(delta.finish_reason == "" for delta in stream)
    timer.join()
    wait_cancelled(live_server, before)


def test_cancelling_one_stream_leaves_the_others(live_server: LiveServer) -> None:
    chat = live_server.chat()
    expected = chat.ask("other", max_tokens=100)
    cancelled = chat.stream("Hello", max_tokens=ENDLESS)
    other = chat.stream("other", max_tokens=100)
    next(cancelled)
    cancelled.cancel()
    assert "".join(delta.text for delta in other) == expected.text


def test_full_queue_is_busy(live_server: LiveServer) -> None:
    idle(live_server)
    fillers = [live_server.chat().stream(f"{i}", max_tokens=ENDLESS) for i in range(SLOTS + LIMITS["queue"])]
    live_server.wait_for(lambda metrics: metrics["decoder_queued_requests"] == LIMITS["queue"])
    for protocol in PROTOCOLS:
        with pytest.raises(Busy, match=r"^server busy: "):
            live_server.chat(protocol).ask("Hello")
    for filler in fillers:
        filler.cancel()
    idle(live_server)


def test_one_client_serves_many_threads(chat: VisionChat) -> None:
    expected = [chat.ask(f"{i}", max_tokens=8) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: chat.ask(f"{i}", max_tokens=8), range(8))) == expected


def test_asyncio_gives_the_same_answers(live_server: LiveServer) -> None:
    expected = [live_server.chat().ask(f"{i}", [png(i)], max_tokens=20) for i in range(4)]

    async def ask_all():
        async with AsyncVisionChat(live_server.grpc_url) as chat:
            whole = await asyncio.gather(*(chat.ask(f"{i}", [png(i)], max_tokens=20) for i in range(4)))
            deltas = [delta async for delta in chat.stream("0", [png(0)], max_tokens=500)]
        return whole, deltas

    whole, deltas = asyncio.run(ask_all())
    assert whole == expected
    assert len(deltas) > 1
    long = live_server.chat().ask("0", [png(0)], max_tokens=500)
    assert "".join(delta.text for delta in deltas) == long.text


def test_asyncio_errors_are_the_same(live_server: LiveServer, dead_url: str) -> None:
    async def error_of(url: str, timeout: float | None, **sampling: object) -> ChatError:
        async with AsyncVisionChat(url, timeout) as chat:
            with pytest.raises(ChatError) as caught:
                await chat.ask("Hello", **sampling)
        return caught.value

    assert isinstance(asyncio.run(error_of(live_server.grpc_url, None, max_tokens=0)), BadRequest)
    assert isinstance(asyncio.run(error_of(live_server.grpc_url, 0.3, max_tokens=ENDLESS)), TimedOut)
    assert isinstance(asyncio.run(error_of(dead_url, None)), ServerUnavailable)


@pytest.mark.parametrize("way", ["cancel", "block", "task"])
def test_asyncio_cancellation_frees_the_slot(live_server: LiveServer, way: str) -> None:
    before = idle(live_server)

    async def start() -> None:
        async with AsyncVisionChat(live_server.grpc_url) as chat:
            stream = chat.stream("Hello", max_tokens=ENDLESS)
            await anext(stream)
            if way == "cancel":
                stream.cancel()
                assert [delta async for delta in stream] == []
            elif way == "block":
                async with stream:
                    await anext(stream)
            else:
                task = asyncio.create_task(drain(stream))
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    async def drain(stream) -> None:
        async for _ in stream:
            pass

    asyncio.run(start())
    wait_cancelled(live_server, before)


def test_usage_counts_visual_tokens(chat: VisionChat) -> None:
    messages = json.loads('[{"role": "user", "content": [{"type": "image"}]}]')
    small, large = (chat.ask(messages, [png(1, size, size)], max_tokens=1).usage.prompt_tokens for size in (64, 128))
    assert large - small == (128 // 32) ** 2 - (64 // 32) ** 2
