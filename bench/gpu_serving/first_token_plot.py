"""The plot of `bench.gpu_serving.first_token`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#9d9da1", "#b279a2")
GOAL_MS = 120


def plot(report: dict, path: Path) -> None:
    """A bar for each kind of file, of the parts that its time to the first token has, as PNG."""
    figure, axes = plt.subplots(figsize=(11, 3), layout="constrained")
    for place, (kind, parts) in enumerate(report["parts"].items()):
        left = 0.0
        for (name, value), colour in zip(parts.items(), COLOURS, strict=True):
            bar = axes.barh(place, max(value, 0), left=left, color=colour, label=name if place == 0 else None)
            if value > 0:
                axes.bar_label(bar, [f"{value:.0f}"], label_type="center", color="white", fontsize=8)
                left += value
        axes.plot(report[kind]["each"], [place - 0.3] * len(report[kind]["each"]), "|", color="black", markersize=8)
    axes.axvline(GOAL_MS, color="#e45756", linestyle=":", label=f"goal, {GOAL_MS} ms")
    axes.set(yticks=range(len(report["parts"])), yticklabels=list(report["parts"]), xlabel="ms")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    width, height = report["size"]
    figure.suptitle(f"first token of an image of {width} x {height}, {report['prompt_tokens']} tokens; "
                    f"{(report['gpu'] or report)['name' if report['gpu'] else 'processor']}; ticks: each request",
                    fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
