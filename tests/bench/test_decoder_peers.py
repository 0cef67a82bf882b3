"""The decoder's peers, on a CPU, small: what is measured, and how 48 layers follow from two depths."""

import json
from pathlib import Path

import pytest

from bench.decoder_cuda import peers


def test_time_of_all_layers_is_on_the_line_through_two_depths():
    depths = {4: {"step 1": 1.5, "step 8": 2.0}, 8: {"step 1": 2.5}}
    assert peers.at(48, depths) == {"step 1": pytest.approx(1.5 + 44 * 0.25)}
    assert peers.at(48, {4: {"step 1": 1.5}}) == {}
    assert peers.at(48, {48: {"step 8": 7.0}}) == {"step 8": 7.0}
    lines = peers.table({"one": {"step 1": 1.5}, "another": {}}).splitlines()
    assert lines[1].split() == ["one", "1.500", *["-"] * 5] and lines[2].split() == ["another", *["-"] * 6]


def test_sides_that_a_cpu_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    for name, value in {"LAYERS": 3, "OWN_DEPTHS": (3,), "EAGER_DEPTHS": (3,), "COMPILED_DEPTHS": (),
                        "STEP_BATCHES": ("1", "2"), "PROMPTS": ("16",),
                        "COLUMNS": ("step 1", "step 2", "prompt 16")}.items():
        monkeypatch.setattr(peers, name, value)
    output = tmp_path / "peers.json"
    assert peers.main([str(tmp_path / "work"), "--device", "cpu", "--small", "--repeats", "1", "--output",
                       str(output)]) == 0
    report = json.loads(output.read_text())
    assert set(report["milliseconds"]) == {"ONNX Runtime's own operators", "transformers, eager"}
    for columns in report["milliseconds"].values():
        assert set(columns) == set(peers.COLUMNS) and min(columns.values()) > 0
    assert output.with_suffix(".png").stat().st_size > 10_000
    assert "prompt 16" in capfd.readouterr().out


def test_a_side_that_takes_too_long_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peers, "EAGER_DEPTHS", (1,))
    monkeypatch.setattr(peers, "COMPILED_DEPTHS", ())
    output = tmp_path / "peers.json"
    assert peers.main([str(tmp_path / "work"), "--device", "cpu", "--small", "--sides", "transformers", "kernels",
                       "--seconds", "1", "--output", str(output)]) == 1
    assert json.loads(output.read_text())["steps"] == [
        {"name": "transformers, eager, 1 layers", "seconds": 0.0, "outcome": "left out: no time"}]
