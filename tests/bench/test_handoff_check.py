"""The check of the hand-off on a GPU, on an emulated one (`tests.support.emulated_gpu`). What it measures there means
nothing, and memory whose owner was killed always stays usable there."""

from __future__ import annotations

import json
from pathlib import Path

from bench.decoder_cuda import handoff_check
from triton_repo.handoff.transports.cuda_shared_memory import _gpu


def test_it_passes_where_memory_can_be_shared(emulated_gpu, tmp_path: Path):
    _gpu.cache_clear()
    assert handoff_check.main(["--rounds", "1", "--output", str(tmp_path / "handoff.json")]) == 0
    found = json.loads((tmp_path / "handoff.json").read_text())
    assert found["dtypes"]["FP32"]["transports"].keys() == set(handoff_check.NAMES)
    assert found["checks"]["writes to a killed receiver"]["found"].endswith("the writer's own GPU memory works")


def test_it_fails_where_it_cannot(emulated_gpu, tmp_path: Path, monkeypatch):
    _gpu.cache_clear()
    monkeypatch.setenv("EMULATED_CUDA_REFUSES_SHARING", "1")
    assert handoff_check.main(["--rounds", "1", "--output", str(tmp_path / "handoff.json")]) == 1
    found = json.loads((tmp_path / "handoff.json").read_text())
    assert not any(result["passed"] for result in found["checks"].values())
