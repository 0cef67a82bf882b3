"""The CPU decoder's benchmark on a small model: everybody runs, and figures follow from measurements as they should."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.decoder_cpu.engine import EngineRunner, measure_engine
from bench.decoder_cpu.fidelity import bundled_model
from bench.decoder_cpu.floor import step_bytes
from bench.decoder_cpu.loads import Loads
from bench.decoder_cpu.peer import measure_peer
from bench.decoder_cpu.plot import plot
from bench.decoder_cpu.run import Record
from bench.decoder_cpu.summary import summary
from export.build_folder import BuildFolder
from qwen3vl.config import ModelConfig

LOADS = Loads(batches=(1, 3), past=20, prompts=(16, 40), steps=2, rounds=1)


def test_engine_and_peer_are_measured_alike(random_build: Path, random_checkpoint: Path):
    ours, peers = measure_engine(random_build, LOADS, chunk=24), measure_peer(random_checkpoint, "fp32", LOADS)
    for result in (ours, peers):
        assert list(result["decode_seconds"]) == ["1", "3"] and list(result["prefill_seconds"]) == ["16", "40"]
        assert min(*result["decode_seconds"].values(), *result["prefill_seconds"].values()) > 0
        assert result["memory"]["resident"] <= result["memory"]["peak"]


def test_steps_see_the_past_they_are_filled_with(random_build: Path):
    runner = EngineRunner(random_build, slots=2, capacity=41, chunk=8)
    runner.fill(2, 40)
    cache = runner._decoder._cache
    assert all(np.abs(array[:, :, :40]).sum(axis=(1, 3)).min() > 0 for array in cache.values())
    runner.step(np.array([3, 4], np.int32), 40)
    assert all((array[:, :, 40] != 0).any() for array in cache.values())


def test_bytes_of_a_step_by_hand(random_build: Path):
    text = ModelConfig.from_dict(BuildFolder(random_build).manifest["config"]).text
    attention, expert = 64 * 24 * 2 * (6 + 2), 3 * 64 * 40
    cache = 2 * 2 * 24 * 100
    assert step_bytes(text, "fp32", 5, 1, 100) == 4 * (5 * (attention + 64 * 8 + 2 * expert + cache) + 64 * 300)
    # Of 8 experts, two at random for each of two tokens hit 8 (1 - (3/4)^2) = 3.5 on average.
    assert step_bytes(text, "bf16", 1, 2, 0) == 2 * (attention + 64 * 8 + 3.5 * expert + 64 * 300)
    four, eight = 0.5 + 4.5 / 128, 1 + 5 / 128  # a float32 scale and a zero point for each block of 128
    assert step_bytes(text, "int4", 1, 1, 0) == pytest.approx(
        four * (attention + 2 * expert) + 4 * 64 * 8 + eight * 64 * 300)


def entries_of(text: dict, cost: dict[str, tuple[float, float]]) -> dict:
    """Measurements of names that cost so many seconds without layers and for each layer, the same for all loads."""
    def measured(base: float, layer: float, layers: int) -> dict:
        seconds = base + layers * layer
        return {"decode_seconds": {"1": seconds, "4": seconds}, "prefill_seconds": {"512": seconds},
                "memory": {"resident": 10**9 * (1 + layers)}, "read_bytes_per_second": 1e10 * layers}

    return {"layers": [1, 4], "loads": {"past": 512}, "model": text, "processor": "a",
            "cores": 2, "date": "2026-01-01",
            "measured": {name: {str(layers): measured(*each, layers) for layers in (1, 4, 12)}
                         for name, each in cost.items()}}


def test_layers_are_extrapolated_and_compared_with_the_floor(random_build: Path, tmp_path: Path):
    text = BuildFolder(random_build).manifest["config"]["text"]
    entries = entries_of(text, {"int4, chunks of 256": (0.002, 0.001), "int4, chunks of 512": (0.002, 0.0005),
                                "transformers bf16": (0.01, 0.01)})
    entries["summary"] = summary(entries)
    step = entries["summary"]["int4, chunks of 256"]["decode"]["4"]
    assert step["a_layer"] == pytest.approx(0.001) and step["all_layers"] == pytest.approx(0.050)
    assert step["tokens_per_second"] == pytest.approx(80)
    config = ModelConfig.from_dict(BuildFolder(random_build).manifest["config"]).text
    assert step["share_of_floor"] == pytest.approx(step_bytes(config, "int4", 48, 4, 512) / 4e10 / 0.050)
    assert entries["summary"]["int4, chunks of 256"]["resident_bytes"] == pytest.approx(49e9)
    checked = entries["summary"]["transformers bf16"]["extrapolation_checked"]["12"]["1"]
    assert checked["measured"] == pytest.approx(checked["extrapolated"])
    plot(entries, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 1000


def test_a_record_goes_on_after_an_interruption(tmp_path: Path):
    path, head = tmp_path / "results" / "record.json", {"command": "a", "date": "2026-01-01", "layers": [1, 4]}
    Record(path, head).add("int4", 4, {"seconds": 1})
    again = Record(path, {**head, "date": "2026-01-02"})
    assert again.has("int4", 4) and not again.has("int4", 1) and not again.has("int8", 4)
    assert json.loads(path.read_text())["date"] == "2026-01-01"
    with pytest.raises(SystemExit, match=r"layers \[1, 4\].*\[1, 2\]"):
        Record(path, {**head, "layers": [1, 2]})


def test_fewer_bits_cost_the_bundled_model_more(tmp_path: Path):
    results = bundled_model(12, tmp_path)
    assert results["questions"] == 12 and results["answer_tokens"] > 10
    assert results["fp32"] == {"accuracy": results["fp32"]["accuracy"], "divergence_nats": 0, "other_choices": 0}
    assert 0 < results["int8"]["divergence_nats"] < results["int4"]["divergence_nats"] / 10
    assert min(results[precision]["accuracy"] for precision in ("fp32", "int4", "int8")) > 0.6
