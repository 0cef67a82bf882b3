"""Sending requests and taking the times of what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bench.serve.record import Record
from bench.serve.workload import Request, RequestSet
from client.async_chat import AsyncVisionChat
from client.errors import BadRequest, Busy, ChatError, ServerError, ServerUnavailable, TimedOut

KINDS = {Busy: "overloaded", BadRequest: "bad request", ServerUnavailable: "unavailable", TimedOut: "timed out",
         ServerError: "server error"}
OVERLOADED = KINDS[Busy]


@dataclass
class LoadRun:
    """One load: its records as requests end.

    Attributes:
        began, ended: seconds of the monotonic clock.
        interrupted: whether it was stopped before all requests had ended.
    """

    records: list[Record] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    interrupted: bool = False


@dataclass(frozen=True)
class Server:
    """Where requests go: host:port of gRPC, and seconds for one answer, None for any."""

    url: str
    timeout: float | None = None


def open_loop(server: Server, requests: RequestSet, arrivals: Iterable[float],
              on_record: Callable[[Record], None]) -> LoadRun:
    """Send request i at the i-th of these times, however the others fare.

    Args:
        arrivals: seconds from the start, ascending.
        on_record: called with each request that has ended.
    """
    async def send(chat: AsyncVisionChat, run: LoadRun) -> None:
        async with asyncio.TaskGroup() as group:
            for index, arrival in enumerate(arrivals):
                due = run.began + arrival
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(_send(chat, requests[index], due, run, on_record))

    return _run(server, send)


def closed_loop(server: Server, requests: RequestSet, count: int, concurrency: int,
                on_record: Callable[[Record], None]) -> LoadRun:
    """Keep `concurrency` requests under way until `count` have been sent."""
    async def send(chat: AsyncVisionChat, run: LoadRun) -> None:
        indexes = iter(range(count))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, count)):
                group.create_task(_send_one_after_another(chat, requests, indexes, run, on_record))

    return _run(server, send)


async def _send_one_after_another(chat: AsyncVisionChat, requests: RequestSet, indexes: Iterator[int], run: LoadRun,
                                  on_record: Callable[[Record], None]) -> None:
    for index in indexes:
        await _send(chat, requests[index], time.monotonic(), run, on_record)


def _run(server: Server, send) -> LoadRun:
    run = LoadRun()

    async def main() -> None:
        async with AsyncVisionChat(server.url, server.timeout) as chat:
            run.began = time.monotonic()
            try:
                await send(chat, run)
            except asyncio.CancelledError:  # Ctrl-C; the group has cancelled what was under way
                run.interrupted = True
            finally:
                run.ended = time.monotonic()

    asyncio.run(main())
    return run


async def _send(chat: AsyncVisionChat, request: Request, due: float, run: LoadRun,
                on_record: Callable[[Record], None]) -> None:
    record = Record(request.index, due, time.monotonic())
    try:
        async with chat.stream(request.messages, request.images, max_tokens=request.max_tokens) as deltas:
            async for delta in deltas:
                record.pieces.append((time.monotonic(), delta.usage.completion_tokens))
                record.text += delta.text
                record.prompt_tokens, record.finish_reason = delta.usage.prompt_tokens, delta.finish_reason
                if request.hang_up is not None and record.tokens >= request.hang_up * request.max_tokens:
                    record.hung_up = not record.answered
                    break
    except ChatError as error:
        record.error, record.message = KINDS.get(type(error), type(error).__name__), str(error)
    run.records.append(record)
    on_record(record)
