"""What a GPU did in some decode steps, from the beginnings and ends of its kernels."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """One kernel, or one copy by the GPU; nanoseconds."""

    name: str
    begin: int
    end: int


def short_name(name: str) -> str:
    """A function's name without its type, namespaces, template and arguments."""
    plain = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    return re.split(r"[<(]", plain, maxsplit=1)[0].rsplit("::", 1)[-1]


def steps_of(intervals: Sequence[Interval], count: int) -> list[list[Interval]]:
    """The intervals of each of `count` steps: between two of them the GPU was idle for longest.

    Raises:
        ValueError: there are fewer intervals than steps.
    """
    if len(intervals) < count:
        raise ValueError(f"{len(intervals)} kernels for {count} steps: was anything recorded?")
    ordered = sorted(intervals, key=lambda interval: interval.begin)
    ends = [ordered[0].end]
    for interval in ordered[1:]:
        ends.append(max(ends[-1], interval.end))
    idle = [after.begin - end for end, after in zip(ends, ordered[1:], strict=False)]
    cuts = sorted(sorted(range(len(idle)), key=lambda i: idle[i])[len(idle) - (count - 1):])
    edges = [0, *(cut + 1 for cut in cuts), len(ordered)]
    return [ordered[begin:end] for begin, end in itertools.pairwise(edges)]


def span(step: Sequence[Interval]) -> float:
    """Microseconds from the first beginning to the last end."""
    return (max(interval.end for interval in step) - min(interval.begin for interval in step)) / 1e3


def shares(steps: Sequence[Sequence[Interval]]) -> dict[str, dict[str, float]]:
    """What each kernel adds to a step: `count` of a step and, the median of steps, `us` of all of them together.

    Kernels overlap, as each begins before the one ahead has ended. So a kernel's share is counted from the end of all
    that ended before it to its own end; the shares of a step, and the idle times in it, add up to its span.
    """
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for step in steps:
        by_end = sorted(step, key=lambda interval: interval.end)
        begins = list(itertools.accumulate((interval.begin for interval in reversed(by_end)), min))[::-1]
        added, counts, end = Counter[str](), Counter[str](), begins[0]
        for interval, begin in zip(by_end, begins, strict=True):  # the first that begins of those still to end
            name = short_name(interval.name)
            added[name] += interval.end - max(end, begin)
            counts[name] += 1
            end = interval.end
        for name, count in counts.items():
            found[name].append((added[name] / 1e3, count))
    medians = {name: {"us": statistics.median(us for us, _ in each), "count": statistics.median(n for _, n in each)}
               for name, each in found.items()}
    return dict(sorted(medians.items(), key=lambda entry: -entry[1]["us"]))
