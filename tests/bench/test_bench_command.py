"""The benchmark as a user runs it, on a small build: the report and its plot, not the figures in them."""

import json
from pathlib import Path

from PIL import Image

from bench.floor import decoder_bytes_per_token
from client.cli import main
from engines.description import EngineDescription


def test_a_report_has_every_load_and_a_plot(live_build: Path, tmp_path: Path):
    output = tmp_path / "report.json"
    assert main(["bench", str(live_build), "--tokens", "8", "--concurrency", "1", "2", "--rounds", "1",
                 "-o", str(output)]) == 0
    report = json.loads(output.read_text())
    assert list(report["loads"]) == ["in process", "through Triton", "transformers"]
    for loads in report["loads"].values():
        assert [(load["concurrency"], load["tokens"]) for load in loads] == [(1, 8), (2, 16)]
        # With `transformers` the two are of different runs, and either may be the longer one on a busy machine.
        assert all(load["first"] > 0 and load["total"] > 0 for load in loads)
    assert report["vision_seconds"]["in process"].keys() == report["vision_seconds"]["transformers"].keys()
    assert Image.open(output.with_suffix(".png")).width > 1000


def test_the_floor_counts_the_weights_that_one_token_needs(random_build: Path):
    config = EngineDescription.load(random_build / "engines").config
    # By hand: 5 layers of attention 64 x 24 x 2 x (6 + 2), router 64 x 8, two experts 3 x 64 x 40, and a head 64 x 300.
    assert decoder_bytes_per_token(config) == 4 * (5 * (64 * 24 * 16 + 64 * 8 + 2 * 3 * 64 * 40) + 64 * 300)
