"""One report of a verification: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.verification.step import Check, Outcome, Status

JSON_FILE, MARKDOWN_FILE = "report.json", "report.md"


def write_report(folder: Path, command: str, target: str, machine: dict, outcomes: Sequence[Outcome]) -> bool:
    """Write both files. Returns whether every step passed."""
    passed = bool(outcomes) and all(outcome.status is Status.PASSED for outcome in outcomes)
    report = {"passed": passed, "target": target, "command": command, "machine": machine,
              "steps": [asdict(outcome) for outcome in outcomes]}
    (folder / JSON_FILE).write_text(json.dumps(report, indent=2) + "\n")
    (folder / MARKDOWN_FILE).write_text("\n".join(_markdown(report, outcomes)) + "\n")
    return passed


def _markdown(report: dict, outcomes: Sequence[Outcome]) -> list[str]:
    machine = report["machine"]
    lines = [f"# Verification of the target {report['target']}: {'passed' if report['passed'] else 'FAILED'}", "",
             f"`{report['command']}`", "", "| | |", "|---|---|", f"| date | {machine['date']} |",
             f"| processor | {machine['processor']}, {machine['cores']} cores, "
             f"{machine['memory_bytes'] / 2**30:.0f} GiB |"]
    lines += [f"| GPU {number} | {', '.join(gpu.values())} |" for number, gpu in enumerate(machine["gpus"])]
    versions = {**machine["container"], "Python": machine["python"], **machine["versions"]}
    lines += [f"| {name} | {version} |" for name, version in versions.items()]
    lines += ["", "| step | result | seconds | checks |", "|---|---|---|---|"]
    for outcome in outcomes:
        good = sum(check.passed for check in outcome.checks)
        lines.append(f"| {outcome.title} | {outcome.status}{f': {outcome.reason}' if outcome.reason else ''} "
                     f"| {outcome.seconds:.0f} | {f'{good} of {len(outcome.checks)}' if outcome.checks else ''} |")
    for outcome in outcomes:
        lines += _details(outcome)
    return lines


def _details(outcome: Outcome) -> list[str]:
    lines = ["", f"## {outcome.title}: {outcome.status}", ""]
    lines += [f"    {shlex.join(command)}" for command in outcome.commands]
    if outcome.log:
        lines += ["", f"Output: `{outcome.log}`"]
    if outcome.checks:
        lines += ["", "| check | measured | allowed | |", "|---|---|---|---|", *map(_row, outcome.checks)]
    return lines


def _row(check: Check) -> str:
    limit = "" if check.limit is None else _value(check.limit)
    return f"| {check.name} | {_value(check.measured)} | {limit} | {'ok' if check.passed else '**FAILED**'} |"


def _value(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")
