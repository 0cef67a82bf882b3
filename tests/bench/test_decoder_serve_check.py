"""The check of the decoder on a GPU, gone through on a CPU; and that it says no to a decoder that is wrong."""

import json
from pathlib import Path

import pytest

from bench.decoder_cuda.serve_check import main
from engines.onnxruntime.cuda_cache import DeviceCache


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return [str(tmp_path), "--device", "cpu", "--output", str(tmp_path / "report.json")]


def test_everything_passes_on_a_cpu(arguments: list[str]):
    assert main(arguments) == 0
    report = json.loads(Path(arguments[-1]).read_text())
    assert report["precision"] == "fp32" and all(check["passed"] for check in report["checks"].values())
    assert {name.partition(":")[0] for name in report["checks"]} == {"export", "own operators", "kernels"}


def test_a_cache_that_loses_a_token_when_it_moves_fails(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys):
    """Logits are off then, and so are answers; the builds are not to blame."""
    move = DeviceCache.move
    monkeypatch.setattr(DeviceCache, "move", lambda self, source, target, length: move(self, source, target,
                                                                                       max(0, length - 1)))
    assert main(arguments) == 1
    passed = {name: check["passed"] for name, check in json.loads(Path(arguments[-1]).read_text())["checks"].items()}
    assert passed["kernels: build"] and not passed["kernels: whole prompts, steps without graphs"]
    assert "AssertionError: off by" in capsys.readouterr().err
