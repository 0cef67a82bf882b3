"""The plot of a report: decode and prefill, tokens a second of the whole model."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#4c78a8", "#72b7b2", "#9d9da1", "#bab0ac")


def plot(entries: dict, path: Path) -> None:
    """Side by side, as PNG: decode by batch with the floor of each, prefill by length; with intervals of 95 %."""
    shown = entries["summary"]
    bandwidth = [step["read_bytes_per_second"] / 1e9 for values in shown.values() for step in values["decode"].values()]
    figure, (decode, prefill) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    _bars(decode, "decode", shown, "sequences", "decode, tokens/s (line: as fast as memory is read)")
    _bars(prefill, "prefill", shown, "prompt, tokens", "prompt, tokens/s")
    figure.suptitle(f"Qwen3-VL-30B-A3B's decoder, 48 layers, random weights; {entries['processor']}, "
                    f"{entries['cores']} cores, {min(bandwidth):.0f} to {max(bandwidth):.0f} GB/s read; "
                    f"{entries['date']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axes, part: str, shown: dict, label: str, title: str) -> None:
    groups = list(next(iter(shown.values()))[part])
    width = 0.8 / len(shown)
    for index, (name, values) in enumerate(shown.items()):
        places = [place + (index - (len(shown) - 1) / 2) * width for place in range(len(groups))]
        rates = [values[part][group]["tokens_per_second"] for group in groups]
        middles = [rate["value"] for rate in rates]
        spread = [[rate["value"] - rate["low"] for rate in rates], [rate["high"] - rate["value"] for rate in rates]]
        bars = axes.bar(places, middles, width, yerr=spread, ecolor="#555555", label=_label(name, values),
                        color=COLOURS[index])
        axes.bar_label(bars, [f"{middle:.3g}" for middle in middles], fontsize=7)
        for place, group in zip(places, groups, strict=True):
            if floor := values[part][group].get("floor_seconds"):
                axes.hlines(int(group) / floor, place - width / 2, place + width / 2, color="black", lw=1)
    axes.set(title=title, xlabel=label, xticks=range(len(groups)), xticklabels=groups)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _label(name: str, values: dict) -> str:
    if not values["extrapolated"]:
        return f"{name}, measured whole"
    return f"{name}, from {', '.join(map(str, values['layers']))} layers"
