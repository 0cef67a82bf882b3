"""The figures of a recording in a few lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path


def summary(files: Mapping[str, Path]) -> str:
    """A table of each part that has results; `files` are named by part, or called after it."""
    lines = []
    for part, path in files.items():
        if not path.exists():
            lines.append(f"{part}: no results")
            continue
        lines.append(f"-- {part}")
        lines += next(made for name, made in LINES.items() if part.startswith(name))(json.loads(path.read_text()))
    return "\n".join(lines)


def _first_token(report: dict) -> Iterator[str]:
    yield (f"first token of an image of {report['size'][0]} x {report['size'][1]}, {report['prompt_tokens']} tokens, "
           f"{report['text_tokens']} of them text; ms")
    for kind in ("JPEG", "PNG"):
        found = report[kind]["first_token"]
        yield f"  {kind:<5} {found['median']:7.1f} (up to {found['largest']:.1f})"
        yield from (f"    {value:7.1f} {name}" for name, value in report.get("parts", {}).get(kind, {}).items())


def _serve(report: dict) -> Iterator[str]:
    yield "load: offered, answered requests/s; tokens/s; first token p50, p99 in ms; between tokens p50, p99 in ms"
    for load in report["loads"]:
        offered = "all at once" if load["offered"] is None else f"{load['offered']:.2f}"
        times = [f"{1e3 * load[name][percentile]:8.1f}" if load[name] else "       -"
                 for name in ("first_token", "gap") for percentile in ("p50", "p99")]
        yield (f"  {offered:>11} {load['requests_per_second']:6.2f} {load['tokens_per_second']:8.1f} {' '.join(times)}"
               f"{'  does not keep up' if load['saturated'] else ''}  {load['errors'] or ''}".rstrip())


def _split(report: dict) -> Iterator[str]:
    yield "whole beside split: clients, side and number of images; first token of images and of text, ms; tokens/s"
    for each in report["measured"]:
        load, times = each["load"], [f"{1e3 * spread[0]:8.1f}" if spread else "       -"
                                     for spread in (each["image_first"], each["text_first"])]
        yield (f"  {each['deployment']:5} {load['clients']:3} {load['side']:4} {load['images']:2} {' '.join(times)} "
               f"{each['tokens_per_second']:8.1f}")


def _handoff(report: dict) -> Iterator[str]:
    yield "hand-off between processes: ms, copies of as many bytes"
    for dtype, measured in report["dtypes"].items():
        for name, times in measured["transports"].items():
            yield (f"  {dtype:5} {name:14} {1e3 * times['seconds']:7.1f} "
                   f"{times['seconds'] / measured['copy_to_new_seconds']:6.1f}")


LINES = {"first_token": _first_token, "serve": _serve, "split": _split, "handoff": _handoff}
