"""Plots of whatever a measurement has come to."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.environment import describe_machine
from bench.serve.load import LoadRun
from bench.serve.record import Record
from bench.serve.report import write_report
from bench.serve.statistics import summarise
from bench.serve.workload import Workload
from tests.bench.serve.records import answered

SAMPLES = [{"at": 0.0, "memory_bytes": 5e8, "own_bytes": 2e8, "queued": 0.0, "active": 1.0},
           {"at": 1.0, "memory_bytes": 6e8, "own_bytes": 3e8, "queued": 3.0, "active": 4.0}]


def report(loads: list, samples: list) -> dict:
    return {**describe_machine(), "server": {"deployment": {"stall_ms": 50}}, "workload": asdict(Workload()),
            "loads": [asdict(load) for load in loads], "samples": samples}


def load(rate: float, wait: float, errors: int = 0):
    records = [answered(i, i / rate, wait, 0.02, 5) for i in range(20)]
    records += [Record(20 + i, 1.0, 1.0, 1.1, error="overloaded", message="server busy: full") for i in range(errors)]
    return summarise(LoadRun(records, 0.0, 20.0), [], offered=rate, concurrency=None)


def colours(path: Path) -> set[tuple]:
    return {tuple(colour) for colour in np.array(Image.open(path).convert("RGB")).reshape(-1, 3)[::7]}


def test_loads_and_server_are_plotted_beside_the_report(tmp_path: Path):
    output = tmp_path / "deep" / "report.json"
    made = report([load(1, 0.1), load(2, 0.2), load(4, 3.0, errors=9)], SAMPLES)
    written = write_report(made, output)
    assert [path.name for path in written] == ["report.json", "report.png", "report.server.png"]
    assert json.loads(output.read_text()) == json.loads(json.dumps(made))
    assert all(Image.open(path).width > 1000 for path in written[1:])
    assert (0xE4, 0x57, 0x56) in colours(written[1])  # what was refused


def test_nothing_is_refused_where_nothing_was(tmp_path: Path):
    written = write_report(report([load(1, 0.1), load(2, 0.2)], SAMPLES), tmp_path / "report.json")
    assert (0xE4, 0x57, 0x56) not in colours(written[1])


@pytest.mark.parametrize("loads", [[], [summarise(LoadRun([], 0.0, 0.0), [], 1.0, None)],
                                   [summarise(LoadRun([answered(0, 0, 1, 1, 2)], 0.0, 2.0), [], None, 4)]])
def test_without_offered_loads_or_samples_there_is_no_plot(tmp_path: Path, loads: list):
    unknown = [{"at": 0.0, "memory_bytes": None, "own_bytes": None, "queued": None, "active": None}]
    assert [path.name for path in write_report(report(loads, unknown), tmp_path / "report.json")] == ["report.json"]
