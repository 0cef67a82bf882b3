"""The plot of a benchmark of the vision encoder: where the time of one 1920x1080 image goes, side by side.

    python -m bench.vision_encoder.plot bench/results/vision_encoder_h200.json bench/results/vision_encoder_h200.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench.vision_encoder.calls import LARGEST

# Part -> what the names of its kernels contain; the first that fits counts.
PARTS = {
    "matrix products": ("nvjet", "gemm", "cutlass", "cublas"),
    "attention": ("attend", "sdpa", "flash", "fmha"),
    "rotary embedding, bias, layout": ("prepare", "Rotary", "Split", "Transpose"),
    "norms, residual sums": ("LayerNorm",),
    "activation": ("Gelu", "gelu"),
    "other kernels": ("",),
}
COLOURS = dict(zip((*PARTS, "no kernel listed"), ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#9d9da1",
                                                 "#e3e3e6"), strict=True))


def parts(kernels: Iterable[dict]) -> dict[str, float]:
    """Milliseconds of each of `PARTS`."""
    times = dict.fromkeys(PARTS, 0.0)
    for kernel in kernels:
        part = next(part for part, names in PARTS.items() if any(name in kernel["kernel"] for name in names))
        times[part] += kernel["ms"]
    return times


def plot_report(report: dict, path: Path) -> None:
    """Write the PNG. The part of a side's wall time that its listed kernels don't cover is drawn pale."""
    results = [result for result in report["results"] if LARGEST.name in result["ms"]]
    results.sort(key=lambda result: result["ms"][LARGEST.name])
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.42 * len(results)), layout="constrained")
    for place, result in enumerate(results):
        wall, left = result["ms"][LARGEST.name], 0.0
        for part, time in {**parts(result.get("kernels", [])), "no kernel listed": None}.items():
            width = wall - left if time is None else min(time, wall - left)
            axes.barh(place, width, left=left, color=COLOURS[part], height=0.7)
            left += width
        axes.text(wall + 0.4, place, f"{wall:.1f}", va="center", fontsize=8)
    floor = max(report["floor_ms"][precision][LARGEST.name] for precision in report["floor_ms"])
    axes.axvline(floor, color="black", linestyle="--", linewidth=1)
    axes.text(floor, -0.6, f"floor {floor:.1f}", ha="center", va="bottom", fontsize=8)
    axes.set(yticks=range(len(results)), yticklabels=[f"{result['side']}, {result['precision']}" for result in results],
             xlabel=f"ms, one {LARGEST.name} image")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    figure.legend(handles, COLOURS, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(f"Vision encoder of Qwen3-VL-30B-A3B, {report['gpu']}, {report['date']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    plot_report(json.loads(args.report.read_text()), args.picture)


if __name__ == "__main__":
    main()
