"""Plots of a report: latency and throughput against offered load, and the server over time."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

PERCENTILES = {"p50": "#4c78a8", "p90": "#72b7b2", "p99": "#f58518"}
THROUGHPUT, OFFERED, REFUSED, MARK = "#4c78a8", "#9d9da1", "#e45756", "#bab0ac"


def plot_loads(report: dict, path: Path) -> bool:
    """Four plots over the loads that were offered, as PNG. Returns whether there were any."""
    loads = [load for load in report["loads"] if load["offered"] is not None and load["first_token"]]
    if not loads:
        return False
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    offered = [load["offered"] for load in loads]
    _latency(axes[0][0], loads, "first_token", 1, "time to first token", "s")
    _latency(axes[0][1], loads, "gap", 1e3, "time between two tokens", "ms")
    if stall := (report["server"]["deployment"] or {}).get("stall_ms"):
        axes[0][1].axhline(stall, color=MARK, linestyle=":", label=f"stall time, {stall} ms")
        axes[0][1].legend(frameon=False, fontsize=8)
    _throughput(axes[1][0], loads)
    tokens = axes[1][1]
    tokens.plot(offered, [load["tokens_per_second"] for load in loads], marker="o", label="generated")
    tokens.plot(offered, [load["prompt_tokens_per_second"] for load in loads], marker="o", label="of prompts")
    tokens.set_yscale("log")
    _finish(tokens, "tokens", "tokens/s")
    for axis in axes.flat:
        _mark_saturation(axis, loads)
        axis.set_xlabel("offered load, requests/s")
    return _save(figure, report, path)


def plot_server(report: dict, path: Path) -> bool:
    """The server's memory, busy slots and queue over time, as PNG. Returns whether anything of it is known."""
    samples = report["samples"]
    series = {"resident memory, MiB": [(s["at"], s["memory_bytes"] / 2**20) for s in samples if s["memory_bytes"]],
              "of it not a file's, MiB": [(s["at"], s["own_bytes"] / 2**20) for s in samples if s["own_bytes"]],
              "busy slots": [(s["at"], s["active"]) for s in samples if s["active"] is not None],
              "requests waiting": [(s["at"], s["queued"]) for s in samples if s["queued"] is not None]}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return False
    figure, axes = plt.subplots(len(series), 1, figsize=(11, 2.2 * len(series)), layout="constrained", sharex=True,
                                squeeze=False)
    for axis, (name, points) in zip(axes.flat, series.items(), strict=True):
        axis.plot(*zip(*points, strict=True), linewidth=1, color=THROUGHPUT)
        axis.set(title=name, ylim=(0, 1.1 * max(1, *(value for _, value in points))))
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1][0].set_xlabel("seconds")
    return _save(figure, report, path)


def _latency(axis: Axes, loads: list[dict], name: str, scale: float, title: str, unit: str) -> None:
    for percentile, colour in PERCENTILES.items():
        points = [(load["offered"], scale * load[name][percentile]) for load in loads if load[name]]
        axis.plot(*zip(*points, strict=True), marker="o", color=colour, label=percentile)
    axis.set_yscale("log")
    _finish(axis, title, unit)


def _throughput(axis: Axes, loads: list[dict]) -> None:
    offered = [load["offered"] for load in loads]
    axis.plot(offered, offered, color=OFFERED, linestyle="--", label="offered")
    axis.plot(offered, [load["requests_per_second"] for load in loads], marker="o", color=THROUGHPUT, label="answered")
    refused = [load["errors"].get("overloaded", 0) / load["seconds"] for load in loads]
    if any(refused):
        axis.plot(offered, refused, marker="o", color=REFUSED, label="refused as overloaded")
    _finish(axis, "requests", "requests/s")


def _mark_saturation(axis: Axes, loads: list[dict]) -> None:
    saturated = [load["offered"] for load in loads if load["saturated"]]
    if saturated:
        axis.axvspan(min(saturated), axis.get_xlim()[1], color=MARK, alpha=0.15)


def _finish(axis: Axes, title: str, unit: str) -> None:
    if axis.get_yscale() == "log":
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(axis="y", which="both", alpha=0.2)
    axis.set(title=title, ylabel=unit, xlim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def _save(figure: Figure, report: dict, path: Path) -> bool:
    workload = report["workload"]
    text, images = workload["text_tokens"], workload["images"]
    figure.suptitle(f"{report['processor']}, {report['cores']} cores; {text['least']} to {text['most']} tokens of "
                    f"text, {images['least']} to {images['most']} images; {report['date']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
