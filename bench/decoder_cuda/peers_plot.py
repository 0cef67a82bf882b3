"""The plot of `bench.decoder_cuda.peers`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot(report: dict, columns: tuple[str, ...], path: Path) -> None:
    """Milliseconds of each side, by what is timed, as PNG."""
    sides = {name: found for name, found in report["milliseconds"].items() if found}
    figure, axes = plt.subplots(figsize=(13, 4.5), layout="constrained")
    width = 0.85 / max(1, len(sides))
    for index, (name, found) in enumerate(sides.items()):
        timed = [place for place, column in enumerate(columns) if column in found]
        bars = axes.bar([place + (index - (len(sides) - 1) / 2) * width for place in timed],
                        [found[columns[place]] for place in timed], width, label=name)
        axes.bar_label(bars, [f"{found[columns[place]]:.3g}" for place in timed], fontsize=7)
    axes.set(yscale="log", ylabel="ms", xticks=range(len(columns)), xticklabels=columns)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"decoder of Qwen3-VL-30B-A3B's shapes, {report['layers']} layers (of few: by the line "
                    "through two depths); steps of so many sequences, 1024 tokens each; prompts of so many tokens",
                    fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
