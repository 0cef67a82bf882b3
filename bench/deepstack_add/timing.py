"""Time of single calls, by replaying a graph of many."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.cuda_timing import graph_of, milliseconds


def microseconds(call: Callable[[int], None], sets: int, *, calls: int = 0, repeats: int = 15) -> float:
    """Device time of one call, in microseconds: the median over replays of one graph of many calls.

    Args:
        call: puts the work of one call on the current stream, on the operands of the set with the given index.
        sets: number of operand sets, taken in turn so that one call's data has left the cache when its turn comes.
        calls: calls in the graph; 0 for a multiple of `sets` of at least 32.
        repeats: timed replays, after three that are not.
    """
    calls = calls or sets * -(-32 // sets)
    graph = graph_of(lambda: [call(index % sets) for index in range(calls)])
    return milliseconds(graph, repeats, uncounted=3) * 1000 / calls


def copy_microseconds(size: int, sets: int) -> float:
    """Time of copies that read and write `size` bytes together, taken in turn over `sets` pairs of aligned buffers."""
    half = -(-size // 512) * 256
    source = torch.randint(256, (sets, half), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return microseconds(lambda index: target[index].copy_(source[index]), sets)
