"""The hand-off's benchmark, on one transport: the report and its plot, not the figures in them."""

from pathlib import Path

from PIL import Image

from bench.handoff import MIB, measure
from bench.handoff_plot import plot


def test_report_and_plot(tmp_path: Path) -> None:
    report = measure(1, ["grpc", "shared_memory"], ["FP16"], [16 * MIB])
    measured = report["dtypes"]["FP16"]
    assert measured["bytes"] == 2040 * 4 * 2048 * 2
    for times in measured["transports"].values():
        assert times["one_token_seconds"] > 0 and times["seconds"] > 0
    assert report["block_bytes"]["grpc"].keys() == {str(16 * MIB)}
    plot({**report, "processor": "a processor", "cores": 2, "date": "today"}, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 1000
