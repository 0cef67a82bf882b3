"""The vision encoder's benchmark, without a GPU: the arithmetic it counts, and the plot of the recorded run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.vision_encoder.calls import CALLS, LARGEST, Call, least_bytes, operations
from bench.vision_encoder.plot import PARTS, parts, plot_report
from qwen3vl.config import VisionConfig

RECORD = Path(__file__).parents[2] / "bench/results/vision_encoder_h200.json"
# Qwen3-VL-30B-A3B.
VISION = VisionConfig(depth=27, hidden_size=1152, num_heads=16, intermediate_size=4304, out_hidden_size=2048,
                      patch_size=16, temporal_patch_size=2, spatial_merge_size=2, in_channels=3,
                      num_position_embeddings=2304, deepstack_visual_indexes=(8, 16, 24))


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads(RECORD.read_text())


def test_operations_are_counted_as_in_the_record(report: dict):
    for call in CALLS:
        assert operations(VISION, call) == report["operations"][call.name]


def test_attention_grows_with_the_square_of_the_patches_and_the_rest_with_their_number():
    call, wider, more = (Call("", frames, grid) for frames, grid in ((1, (8, 8)), (1, (8, 16)), (2, (8, 8))))
    one, double, twice = (operations(VISION, x) for x in (call, wider, more))
    assert double["attention"] == 4 * one["attention"] and twice["attention"] == 2 * one["attention"]
    assert double["all"] - double["attention"] == twice["all"] - twice["attention"]
    assert twice["all"] == 2 * one["all"]


def test_weights_are_read_once():
    small, large = (least_bytes(VISION, Call("", frames, (2, 2)), 2) for frames in (1, 2))
    deeper = least_bytes(replace(VISION, depth=28), Call("", 1, (2, 2)), 2)
    weights = 2 * (4 * 1152**2 + 2 * 1152 * 4304)
    assert large - small < 0.01 * small
    assert weights < deeper - small < 1.01 * weights


def test_each_kernel_counts_in_one_part(report: dict):
    kernels = report["results"][0]["kernels"]
    times = parts(kernels)
    assert sum(times.values()) == pytest.approx(sum(kernel["ms"] for kernel in kernels))
    # What the record's text says of the first row.
    assert times["attention"] == pytest.approx(17.2, abs=0.1)
    assert times["matrix products"] == pytest.approx(10.4, abs=0.1)
    assert all(times[part] > 0 for part in PARTS)


def test_the_record_is_plotted(report: dict, tmp_path: Path):
    path = tmp_path / "plot.png"
    plot_report(report, path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    assert all(LARGEST.name in result["ms"] for result in report["results"])
