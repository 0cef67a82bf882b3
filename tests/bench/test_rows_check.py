"""The check of visual rows on a GPU, on an emulated one (`tests.support.emulated_gpu`): that it passes where rows stay,
and fails where they do not. What it measures there means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.decoder_cuda import rows_check, rows_requests
from tests.support.emulated_gpu import compute_on_the_host_in, make_cuda_build


@pytest.fixture
def check(live_build: Path, tmp_path: Path, emulated_gpu, monkeypatch: pytest.MonkeyPatch):
    """Runs it. Returns its exit code and results."""
    make_cuda_build(live_build, tmp_path / "build")
    compose = rows_check.compose

    def composed(build: Path, *arguments) -> None:
        compose(build, *arguments)
        compute_on_the_host_in(build)

    monkeypatch.setattr(rows_check, "compose", composed)
    monkeypatch.setattr(rows_requests, "SETTLE_SECONDS", 0.5)
    monkeypatch.setenv("LD_PRELOAD", str(emulated_gpu.library))

    def run() -> tuple[int, dict]:
        code = rows_check.main([str(tmp_path), "--output", str(tmp_path / "rows.json"), "--size", "256", "256",
                                "--requests", "8", "--rounds", "2"])
        return code, json.loads((tmp_path / "rows.json").read_text())

    return run


def test_it_passes_where_rows_stay(check):
    code, found = check()
    assert code == 0, found["checks"]
    assert len(found["checks"]) == 15
    assert "0.0 MB in the host's" in found["checks"]["device: way of the rows"]["found"]
    assert {place: len(seconds) for place, seconds in found["seconds"].items()} == {"device": 2, "host": 2}


def test_it_fails_where_they_do_not_and_where_there_is_nothing_to_compare(check, monkeypatch):
    start = rows_check.start

    def start_on_the_device(build: Path, place: str, *arguments) -> rows_requests.Served:
        if place == "host":
            raise RuntimeError("no server")
        return start(build, place, *arguments)

    monkeypatch.setattr(rows_check, "start", start_on_the_device)
    monkeypatch.setattr(rows_requests.Served, "load", lambda served, requests: "left out")
    monkeypatch.setenv("EMULATED_CUDA_REFUSES_SHARING", "1")
    code, found = check()
    failed = {name for name, result in found["checks"].items() if not result["passed"]}
    assert code == 1 and failed == {"GPU memory can be shared between processes", "device: way of the rows",
                                    "host: server", "answers are the same", "time of a request"}
    assert "another process could not open it" in found["checks"]["device: way of the rows"]["found"]
