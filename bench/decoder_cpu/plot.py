"""The plot of a report: decode and prefill, tokens a second of the whole model."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#4c78a8", "#72b7b2", "#9d9da1", "#bab0ac")


def plot(entries: dict, path: Path) -> None:
    """Side by side, as PNG: decode by batch with the floor of each, prefill by length."""
    shown = _best(entries["summary"])
    bandwidth = max(values["read_bytes_per_second"] for values in shown.values())
    figure, (decode, prefill) = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    _bars(decode, "decode", shown, "batch", "decode, tokens/s (line: floor)", floor=True)
    _bars(prefill, "prefill", shown, "prompt, tokens", "prompt, tokens/s", floor=False)
    figure.suptitle(f"Qwen3-VL-30B-A3B's decoder, 48 layers extrapolated from {entries['layers'][0]} and "
                    f"{entries['layers'][1]}; {entries['processor']}, {entries['cores']} cores, "
                    f"{bandwidth / 1e9:.0f} GB/s read; {entries['date']}",
                    fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _best(summary: dict) -> dict:
    """Of the chunk sizes of a precision the one whose prompts are the fastest."""
    best: dict = {}
    for name, values in summary.items():
        label = name.split(",")[0]
        speed = sum(entry["tokens_per_second"] for entry in values["prefill"].values())
        if label not in best or speed > best[label][0]:
            best[label] = (speed, values)
    return {label: values for label, (_, values) in best.items()}


def _bars(axes, part: str, shown: dict, label: str, title: str, floor: bool) -> None:
    groups = list(next(iter(shown.values()))[part])
    width = 0.8 / len(shown)
    for index, (name, values) in enumerate(shown.items()):
        places = [place + (index - (len(shown) - 1) / 2) * width for place in range(len(groups))]
        speeds = [values[part][group]["tokens_per_second"] for group in groups]
        bars = axes.bar(places, speeds, width, label=name, color=COLOURS[index])
        axes.bar_label(bars, [f"{speed:.3g}" for speed in speeds], fontsize=7)
        if floor:
            limits = [int(group) / values[part][group]["floor_seconds"] for group in groups]
            axes.hlines(limits, [p - width / 2 for p in places], [p + width / 2 for p in places], color="black", lw=1)
    axes.set(title=title, xlabel=label, xticks=range(len(groups)), xticklabels=groups)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
