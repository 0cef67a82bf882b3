"""Timing of CUDA work by graph replay."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def microseconds(call: Callable[[int], None], sets: int, *, calls: int = 0, repeats: int = 15) -> float:
    """Device time of one call, in microseconds: the median over replays of one graph of many calls.

    Args:
        call: puts the work of one call on the current stream, on the operands of the set with the given index.
        sets: number of operand sets, taken in turn so that one call's data has left the cache when its turn comes.
        calls: calls in the graph; 0 for a multiple of `sets` of at least 32.
        repeats: timed replays, after three that are not.
    """
    calls = calls or sets * -(-32 // sets)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(0)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for index in range(calls):
            call(index % sets)
    times = []
    for repeat in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if repeat >= 3:
            times.append(start.elapsed_time(end) * 1000 / calls)
    return statistics.median(times)


def copy_microseconds(size: int, sets: int) -> float:
    """Time of copies that read and write `size` bytes together, taken in turn over `sets` pairs of aligned buffers."""
    half = -(-size // 512) * 256
    source = torch.randint(256, (sets, half), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return microseconds(lambda index: target[index].copy_(source[index]), sets)
