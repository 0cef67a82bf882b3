"""What is kept of a measurement: a JSON file and plots beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from bench.environment import describe_machine
from bench.serve.calibration import Calibration
from bench.serve.measure import Measurement
from bench.serve.memory import memory_trend
from bench.serve.plot import plot_loads, plot_server
from bench.serve.server_watch import ServerWatch
from bench.serve.target import Target
from bench.serve.workload import Workload

# A plot of more points than this looks the same.
SAMPLES = 2000


def make_report(command: str, target: Target, workload: Workload, found: Calibration,
                measurement: Measurement, watch: ServerWatch) -> dict:
    """All of it as JSON values; times of the server's samples are seconds from the first one."""
    trend, sweep, verification = memory_trend(watch.samples), measurement.sweep, measurement.verification
    step = -(-len(watch.samples) // SAMPLES) or 1
    return {
        "command": command, **describe_machine(),
        "server": {"name": target.name, "version": target.version, "deployment": target.deployment,
                   "limits": target.limits.to_dict() if target.limits else None},
        "workload": asdict(workload), "calibration": asdict(found), "interrupted": measurement.interrupted,
        "capacity": asdict(sweep.capacity) if sweep.capacity else None,
        "loads": [asdict(summary) for summary in sweep.summaries],
        "verification": asdict(verification) if verification else None,
        "memory": asdict(trend) if trend else None,
        "left_over": {"queued": watch.samples[-1].queued, "active": watch.samples[-1].active},
        "samples": [{**asdict(sample), "at": round(sample.at - watch.samples[0].at, 2)}
                    for sample in watch.samples[::step]],
    }


def write_report(report: dict, output: Path) -> list[Path]:
    """Write the report and its plots, and return their paths."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    plots = {output.with_suffix(".png"): plot_loads, output.with_suffix(".server.png"): plot_server}
    return [output, *(path for path, plot in plots.items() if plot(report, path))]
