"""Timing of CUDA work by graph replay, and the most that a Hopper GPU can do."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

PEAK = 989e12  # operations a second on the tensor cores: an H100's and H200's data sheet


def graph_of(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of what `work` puts on the current stream; it is done once before, so that nothing is lazy any more."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph


def milliseconds(graph: torch.cuda.CUDAGraph, repeats: int, uncounted: int = 2) -> float:
    """Median device time of one replay, after some that are not counted."""
    times = []
    for repeat in range(repeats + uncounted):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if repeat >= uncounted:
            times.append(start.elapsed_time(end))
    return statistics.median(times)
