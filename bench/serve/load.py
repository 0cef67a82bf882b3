"""Sending requests and taking the times of what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bench.serve.interruption import Interruption
from bench.serve.record import Record
from bench.serve.workload import Request, RequestSet
from client.async_chat import AsyncVisionChat
from client.errors import BadRequest, Busy, ChatError, ServerError, ServerUnavailable, TimedOut

KINDS = {Busy: "overloaded", BadRequest: "bad request", ServerUnavailable: "unavailable", TimedOut: "timed out",
         ServerError: "server error"}
OVERLOADED = KINDS[Busy]

OnRecord = Callable[[Record], None]


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


class LoadClient:
    """Sends the requests of a set to a server.

    Args:
        url: host:port of gRPC.
        timeout: seconds for one answer, None for any.
        interruption: ends a load early.
    """

    def __init__(self, url: str, requests: RequestSet, timeout: float | None = None,
                 interruption: Interruption | None = None):
        self._url, self._requests, self._timeout = url, requests, timeout
        self._interruption = interruption or Interruption()

    def open_loop(self, arrivals: Iterable[float], on_record: OnRecord) -> LoadRun:
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
                    group.create_task(_send(chat, self._requests[index], due, run, on_record))

        return asyncio.run(self._run(send))

    def closed_loop(self, count: int, concurrency: int, on_record: OnRecord) -> LoadRun:
        """Keep `concurrency` requests under way until `count` have been sent."""
        async def send(chat: AsyncVisionChat, run: LoadRun) -> None:
            indexes = iter(range(count))
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, count)):
                    group.create_task(self._one_after_another(chat, indexes, run, on_record))

        return asyncio.run(self._run(send))

    async def _one_after_another(self, chat: AsyncVisionChat, indexes: Iterator[int], run: LoadRun,
                                 on_record: OnRecord) -> None:
        for index in indexes:
            await _send(chat, self._requests[index], time.monotonic(), run, on_record)

    async def _run(self, send: Callable[[AsyncVisionChat, LoadRun], Awaitable[None]]) -> LoadRun:
        run, loop, task = LoadRun(), asyncio.get_running_loop(), asyncio.current_task()
        async with AsyncVisionChat(self._url, self._timeout) as chat:
            run.began = time.monotonic()
            try:
                with self._interruption.stops(lambda: loop.call_soon_threadsafe(task.cancel)):
                    await send(chat, run)
            except asyncio.CancelledError:  # the group has cancelled what was under way
                run.interrupted = True
            run.ended = time.monotonic()
        return run


async def _send(chat: AsyncVisionChat, request: Request, due: float, run: LoadRun,
                on_record: OnRecord) -> None:
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
    record.ended = time.monotonic()
    run.records.append(record)
    on_record(record)
