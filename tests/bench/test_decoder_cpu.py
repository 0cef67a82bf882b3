"""The CPU decoder's benchmark on a small model: everybody runs, and figures follow from measurements as they should."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import Qwen3VLMoeConfig

from bench.decoder_cpu.engine import EngineRunner, measure_engines
from bench.decoder_cpu.estimate import Estimate, at_depth
from bench.decoder_cpu.fidelity import bundled_model
from bench.decoder_cpu.floor import step_bytes, weight_bytes
from bench.decoder_cpu.loads import Loads
from bench.decoder_cpu.overlapping_checkpoint import INPUT_NORM, WEIGHTS, write_overlapping_checkpoint
from bench.decoder_cpu.peer import measure_peer
from bench.decoder_cpu.plot import plot
from bench.decoder_cpu.run import Record
from bench.decoder_cpu.scratch import Scratch, text_config
from bench.decoder_cpu.summary import summary
from bench.synthetic_checkpoint import tensor_shapes
from export.build_folder import BuildFolder
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig, TextConfig
from tests.support.checkpoints import make_config

LOADS = Loads(batches=(1, 3), past=20, prompts=(16, 40), steps=2, rounds=3, prompt_rounds=2)


def small(layers: int) -> Qwen3VLMoeConfig:
    return make_config(text={"num_hidden_layers": layers})


def text_of(build: Path) -> TextConfig:
    return ModelConfig.from_dict(BuildFolder(build).manifest["config"]).text


def test_engines_and_peers_are_measured_alike(tmp_path: Path):
    scratch = Scratch(tmp_path, small)
    builds = [scratch.build("fp32", layers) for layers in (5, 4)]
    ours = measure_engines(builds, LOADS)
    peers = measure_peer(scratch.checkpoint(5), "fp32", [5, 4], LOADS)
    assert ours.pop("model")["num_hidden_layers"] == 4 and ours.pop("chunk") == 512
    stages = ["loading", "prompt of 16", "prompt of 40", "steps of 1", "steps of 3"]
    for result in (ours, peers):
        assert set(result) == set(ours) and result["major_faults"] >= 0
        for part, loads, rounds in (("decode_seconds", ["1", "3"], 3), ("decode_bandwidth", ["1", "3"], 3),
                                    ("prefill_seconds", ["16", "40"], 2)):
            assert list(result[part]) == ["5", "4"]
            for times in result[part].values():
                assert list(times) == loads and all(len(each) == rounds and min(each) > 0 for each in times.values())
        assert all(list(used) == stages for used in result["memory"].values())
        assert all(used["resident"] <= used["peak"] for each in result["memory"].values() for used in each.values())


def test_a_build_is_made_once_and_keeps_engines_alone(tmp_path: Path):
    scratch = Scratch(tmp_path, small)
    build = scratch.build("fp32", 4)
    made = (build / "engines/decoder/weights.bin").stat().st_mtime_ns
    assert not (build / "onnx").exists() and text_config(build)["num_hidden_layers"] == 4
    assert [folder.name for folder in tmp_path.iterdir()] == ["fp32-4"]
    assert scratch.build("fp32", 4) == build
    assert (build / "engines/decoder/weights.bin").stat().st_mtime_ns == made


def test_overlapping_weights_are_distinct_and_the_file_small(tmp_path: Path):
    config = make_config(text={"num_hidden_layers": 40, "num_experts": 64})
    size = write_overlapping_checkpoint(tmp_path, config, seed=0)
    shapes = tensor_shapes(config)
    assert (tmp_path / WEIGHTS).stat().st_size > size > 0
    with Checkpoint.open(tmp_path) as checkpoint:
        assert set(checkpoint.names()) == set(shapes)
        weights = {name: checkpoint.read(name) for name in shapes}
    assert all(array.shape == shapes[name] for name, array in weights.items())
    matrices = [array.astype(np.float32) for array in weights.values() if array.ndim > 1]
    assert size < sum(2 * array.size for array in matrices) / 4
    assert len({array.tobytes() for array in matrices}) == len(matrices)
    assert all(0.8 < array.std() * math.sqrt(64) < 1.2 for array in matrices if array.size > 1000)
    vectors = {name: array.astype(np.float32) for name, array in weights.items() if array.ndim == 1}
    for name, values in vectors.items():
        expected = 0 if name.endswith("bias") else INPUT_NORM if "input_layernorm" in name else 1
        assert values == pytest.approx(np.full(values.shape, expected), rel=1e-2), name


def test_steps_see_the_past_they_are_filled_with(random_build: Path):
    runner = EngineRunner(random_build, slots=2, capacity=41, chunk=8)
    runner.fill(2, 40)
    cache = runner._decoder._cache
    assert all(np.abs(array[:, :, :40]).sum(axis=(1, 3)).min() > 0 for array in cache.values())
    runner.step(np.array([3, 4], np.int32), 40)
    assert all((array[:, :, 40] != 0).any() for array in cache.values())
    before = {name: array[:, :, :40].copy() for name, array in cache.items()}
    runner.prompt(np.arange(20, dtype=np.int32))
    assert any((array[0, :, :40] != before[name][0]).any() for name, array in cache.items())
    runner.fill(2, 40)
    assert all((array[:, :, :40] == before[name]).all() for name, array in cache.items())


def test_bytes_of_a_step_by_hand(random_build: Path):
    text = text_of(random_build)
    attention, expert = 64 * 24 * 2 * (6 + 2), 3 * 64 * 40
    cache = 2 * 2 * 24 * 100
    assert step_bytes(text, "fp32", 5, 1, 100) == 4 * (5 * (attention + 64 * 8 + 2 * expert + cache) + 64 * 300)
    # Of 8 experts, two at random for each of two tokens hit 8 (1 - (3/4)^2) = 3.5 on average.
    assert step_bytes(text, "bf16", 1, 2, 0) == 2 * (attention + 64 * 8 + 3.5 * expert + 64 * 300)
    four, eight = 0.5 + 4.5 / 128, 1 + 5 / 128  # a float32 scale and a zero point for each block of 128
    assert step_bytes(text, "int4", 1, 1, 0) == pytest.approx(
        four * (attention + 2 * expert) + 4 * 64 * 8 + eight * 64 * 300)
    # All experts, and an embedding in float32 beside the output projection.
    assert weight_bytes(text, "int4", 3) == pytest.approx(
        3 * (four * (attention + 8 * expert) + 4 * 64 * 8) + (eight + 4) * 64 * 300)


def test_a_line_through_depths_reaches_the_whole_model():
    rounds = {2: [0.012, 0.012, 0.012], 6: [0.016, 0.016, 0.016], 12: [0.022, 0.022, 0.022]}
    assert at_depth(rounds, 48) == Estimate(*[pytest.approx(0.058)] * 3)
    with pytest.raises(ValueError, match=r"\[12\] layers alone say nothing of 48"):
        at_depth({12: rounds[12]}, 48)


def test_what_was_measured_whole_is_not_extrapolated():
    found = at_depth({1: [5.0, 5.0, 5.0], 48: [1.0, 2.0, 9.0]}, 48)
    assert found.value == 2 and found.low == 1 and found.high == 9


def test_noise_widens_the_interval_and_a_slow_round_does_not():
    random = np.random.default_rng(0)
    depths = (2, 6, 12)

    def width(slow: np.ndarray, noise: float) -> float:
        rounds = {layers: list((0.01 + 0.001 * layers) * slow + noise * random.standard_normal(8)) for layers in depths}
        found = at_depth(rounds, 48)
        assert found.low <= found.value <= found.high
        return found.high - found.low

    steady = np.ones(8)
    assert width(steady, 1e-3) > 5 * width(steady, 1e-4) > 0
    # Rounds that are slower as a whole move the line, by as much as they are slower, and do not tilt it.
    assert width(1 + 0.01 * np.arange(8), 0) < 0.08 * 0.058


def test_rates_turn_intervals_round():
    assert Estimate(2.0, 1.0, 4.0).inverse(8) == Estimate(4.0, 2.0, 8.0)
    assert Estimate(0.5, -0.1, 1.0).inverse(1).high == float("inf")


def measured(base: float, layer: float, depths: tuple[int, ...]) -> dict:
    """What somebody's measurement is who needs so many seconds without layers and for each, the same for all loads."""
    def seconds(loads: tuple[str, ...]) -> dict:
        return {str(layers): {load: [base + layers * layer] * 3 for load in loads} for layers in depths}

    memory = {str(layers): {"loading": {"resident": 10**8}, "steps of 4": {"resident": 10**9 * sum(depths[: i + 1])}}
              for i, layers in enumerate(depths)}
    return {"decode_seconds": seconds(("1", "4")), "prefill_seconds": seconds(("512",)),
            "memory": memory,
            "decode_bandwidth": {str(layers): {"1": [2e10] * 3, "4": [2e10, 4e10, 3e10]} for layers in depths}}


def test_figures_of_the_whole_model_and_shares_of_the_floor(random_build: Path, tmp_path: Path):
    text = text_of(random_build)
    entries = {"processor": "a", "cores": 2, "date": "2026-01-01", "measured": {
        "int4": measured(0.002, 0.001, (48,)), "int8": measured(0.004, 0.002, (12, 6, 2)),
        "transformers bf16": measured(0.01, 0.01, (6, 2))}}
    entries["summary"] = found = summary(entries["measured"], text, past=512)
    assert [values["extrapolated"] for values in found.values()] == [False, True, True]
    whole, deep = found["int4"]["decode"]["4"], found["int8"]["decode"]["4"]
    assert whole["tokens_per_second"]["value"] == pytest.approx(80)
    assert deep["tokens_per_second"]["value"] == pytest.approx(40)
    assert whole["share_of_floor"]["value"] == pytest.approx(step_bytes(text, "int4", 48, 4, 512) / 3e10 / 0.050)
    assert whole["share_of_floor"]["low"] == pytest.approx(whole["share_of_floor"]["value"] * 3 / 4)
    assert whole["floor_seconds"] == pytest.approx(step_bytes(text, "int4", 48, 4, 512) / 3e10)
    # Of the layers that ran, not of those extrapolated.
    assert deep["share_of_floor"]["value"] == pytest.approx(step_bytes(text, "int8", 12, 4, 512) / 3e10 / 0.028)
    assert found["transformers bf16"]["prefill"]["512"]["tokens_per_second"]["value"] == pytest.approx(512 / 0.49)
    memory = found["int8"]["memory"]
    assert memory["layers"] == 12 and memory["resident"] == {"loading": 10**8, "steps of 4": 12 * 10**9}
    assert memory["weights"] == weight_bytes(text, "int8", 48)
    with pytest.raises(ValueError, match=r"int8 was measured with \['2', '6'\] layers, expected the deepest first"):
        summary({"int8": measured(0.004, 0.002, (2, 6))}, text, past=512)
    plot(entries, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 1000


def test_a_record_goes_on_after_an_interruption(tmp_path: Path):
    path, head = tmp_path / "results" / "record.json", {"command": "a", "date": "2026-01-01", "cores": 2}
    Record(path, head).add("int4", {"seconds": 1, "model": {"layers": 3}})
    again = Record(path, {**head, "date": "2026-01-02"})
    assert again.has("int4") and not again.has("int8")
    again.add("transformers bf16", {"seconds": 2})
    found = json.loads(path.read_text())
    assert found["date"] == "2026-01-01" and found["model"] == {"layers": 3}
    assert found["measured"] == {"int4": {"seconds": 1}, "transformers bf16": {"seconds": 2}}
    with pytest.raises(SystemExit, match=r"cores 2.*4"):
        Record(path, {**head, "cores": 4})


def test_fewer_bits_cost_the_bundled_model_more(tmp_path: Path):
    results = bundled_model(12, tmp_path)
    assert results["questions"] == 12 and results["answer_tokens"] > 10
    assert results["fp32"] == {"accuracy": results["fp32"]["accuracy"], "divergence_nats": 0, "other_choices": 0}
    assert 0 < results["int8"]["divergence_nats"] < results["int4"]["divergence_nats"] / 10
    assert min(results[precision]["accuracy"] for precision in ("fp32", "int4", "int8")) > 0.6
