"""The plot of `bench.handoff`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
MIB = 1024 * 1024


def plot(report: dict, path: Path) -> None:
    """Times by transport and type beside a memory copy, and by size of block, as PNG."""
    figure, (times, blocks) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    dtypes = report["dtypes"]
    names = list(next(iter(dtypes.values()))["transports"])
    for index, name in enumerate(["memory copy", *names]):
        heights = [1e3 * (measured["copy_to_new_seconds"] if index == 0 else measured["transports"][name]["seconds"])
                   for measured in dtypes.values()]
        width = 0.8 / (len(names) + 1)
        places = [place + (index - len(names) / 2) * width for place in range(len(dtypes))]
        bars = times.bar(places, heights, width, label=name, color="#9d9da1" if index == 0 else COLOURS[index - 1])
        times.bar_label(bars, [f"{height:.0f}" if height >= 10 else f"{height:.1f}" for height in heights], fontsize=7)
    labels = [f"{dtype}, {measured['bytes'] / MIB:.0f} MiB" for dtype, measured in dtypes.items()]
    times.set(title="hand-off of a 1920 x 1080 image", ylabel="ms", xticks=range(len(dtypes)), xticklabels=labels)
    for name, colour in zip(names, COLOURS, strict=False):
        measured = report["block_bytes"][name]
        blocks.plot([int(size) / MIB for size in measured], [1e3 * seconds for seconds in measured.values()], "o-",
                    label=name, color=colour)
    blocks.set(title="by size of a block (BF16)", ylabel="ms", xlabel="MiB", xscale="log", ylim=(0, None))
    for axes in (times, blocks):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{report['processor']}, {report['cores']} cores; medians of {report['rounds']}; {report['date']}",
                    fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
