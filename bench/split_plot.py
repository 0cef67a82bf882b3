"""The plot of a `bench.split` report."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"whole": "#f58518", "split": "#4c78a8"}
PANELS = (("image_first", "first token, requests with images", "ms"), ("text_first", "first token, text alone", "ms"),
          ("tokens_per_second", "generated", "tokens/s"))


def plot(report: dict, path: Path) -> None:
    """A row of panels for each size of images and number of clients; bars are medians of the rounds, ticks on them each
    round."""
    loads = sorted({(measured["load"]["side"], measured["load"]["clients"]) for measured in report["measured"]})
    images = sorted({measured["load"]["images"] for measured in report["measured"]})
    figure, rows = plt.subplots(len(loads), len(PANELS), figsize=(13, 3.4 * len(loads)), layout="constrained",
                                squeeze=False)
    for (side, clients), row in zip(loads, rows, strict=True):
        for axes, (field, title, unit) in zip(row, PANELS, strict=True):
            for index, (name, colour) in enumerate(COLOURS.items()):
                series = [_values(report, name, (side, clients, each), field) for each in images]
                places = [place + (index - 0.5) * 0.4 for place in range(len(images))]
                bars = axes.bar(places, [statistics.median(values) if values else 0 for values in series], 0.4,
                                label=name, color=colour)
                axes.bar_label(bars, [f"{statistics.median(values):,.0f}" if values else "" for values in series],
                               label_type="center", color="white", fontsize=8)
                for place, values in zip(places, series, strict=True):
                    axes.plot([place] * len(values), values, "_", color="black", markersize=6)
            axes.set(title=f"{title}, {clients} at a time", ylabel=unit,
                     xlabel=f"images of {side} x {side} in a request",
                     xticks=range(len(images)), xticklabels=images)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{report['processor']}, {report['cores']} cores, target {report['target']}; "
                    f"{report['encode_servers']} encode server(s) on the same machine; {report['date']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _values(report: dict, deployment: str, load: tuple[int, int, int], field: str) -> list[float]:
    """Of each round; times as milliseconds, their medians."""
    found = [measured[field] for measured in report["measured"] if measured["deployment"] == deployment
             and tuple(measured["load"][name] for name in ("side", "clients", "images")) == load]
    return [1e3 * value[0] if isinstance(value, (tuple, list)) else value for value in found if value is not None]
