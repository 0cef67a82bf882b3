"""The plot of a `qwen3vl bench` report."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"in process": "#4c78a8", "through Triton": "#f58518", "transformers": "#9d9da1"}


def plot_report(report: dict, path: Path) -> None:
    """Time to first token, throughput and vision time, side by side, as PNG."""
    figure, (first, throughput, vision) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    loads = {name: measured for name, measured in report["loads"].items() if measured}
    levels = [str(load["concurrency"]) for load in next(iter(loads.values()))]
    label = "requests at the same time"
    _bars(first, levels, {name: [1e3 * load["first"] for load in measured] for name, measured in loads.items()},
          "time to first token", "ms", label)
    rates = {name: [load["tokens_per_second"] for load in measured] for name, measured in loads.items()}
    _bars(throughput, levels, rates, "throughput", "tokens/s", label)
    sides = [str(side) for side in next(iter(report["vision_seconds"].values()))]
    _bars(vision, sides, {name: [1e3 * seconds for seconds in times.values()]
                          for name, times in report["vision_seconds"].items()},
          "vision encoder", "ms per image", "side of a square image, pixels")
    figure.suptitle(f"{report['processor']}, {report['cores']} cores; {report['prompt_tokens']} prompt tokens, "
                    f"{report['answer_tokens']} generated; {report['date']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axes, groups: list[str], series: dict[str, list[float]], title: str, unit: str, label: str) -> None:
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        places = [place + (index - (len(series) - 1) / 2) * width for place in range(len(groups))]
        bars = axes.bar(places, values, width, label=name, color=COLOURS[name])
        axes.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], fontsize=7)
    axes.set(title=title, ylabel=unit, xlabel=label, xticks=range(len(groups)), xticklabels=groups)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
