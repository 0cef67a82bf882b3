"""All-reduce, all-gather and the pipeline's hand-over between ranks that run in threads of one process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import torch

WAIT = 60  # seconds until a rank that never comes is an error


class Communicator:
    """Attribute `rank` of each view is the caller's; the rest is common to all."""

    def __init__(self, world_size: int) -> None:
        self._exchanges: dict[tuple[int, ...], _Exchange] = {}
        self._lock = threading.Lock()
        self._pipes = {rank: queue.Queue() for rank in range(world_size)}

    def gather(self, group: Sequence[int], rank: int, value: torch.Tensor) -> list[torch.Tensor]:
        """The values of all ranks of the group, in its order."""
        with self._lock:
            exchange = self._exchanges.setdefault(tuple(group), _Exchange(len(group)))
        return exchange.run(list(group).index(rank), value)

    def send(self, to: int, value: torch.Tensor) -> None:
        self._pipes[to].put(value)

    def receive(self, rank: int) -> torch.Tensor:
        return self._pipes[rank].get(timeout=WAIT)


class _Exchange:
    def __init__(self, size: int) -> None:
        self._values: list[torch.Tensor | None] = [None] * size
        self._barrier = threading.Barrier(size)

    def run(self, index: int, value: torch.Tensor) -> list[torch.Tensor]:
        self._values[index] = value
        self._barrier.wait(WAIT)
        values = list(self._values)
        self._barrier.wait(WAIT)
        return values
