"""What steps leave behind, as checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bench.verification.step import Check
from engines.fidelity.comparison import Tolerance
from engines.fidelity.expected import LOGITS, Expected

# Rounding depends on how many requests share a step, so that in half precision some greedy answers under load are
# others; requests that get mixed up would be nearly all.
DIFFERENT_ANSWERS = {"fp32": 0.0, "fp16": 0.1, "bf16": 0.1}


def fidelity(build: Path, logits: Path) -> list[Check]:
    """The comparisons of a `qwen3vl check --logits` of a build."""
    if not logits.is_file():
        raise ValueError("the comparisons did not come to their end")
    results = json.loads((build / "manifest.json").read_text())["fidelity"]["results"]
    return [Check(f"{result['case']}: {result['level']}", result["passed"], result["error"],
                  f"at least {result['limit']:.4g}" if result["level"].startswith("canary") else result["limit"])
            for result in results]


def same_logits(first: Path, second: Path, expected: Path, precision: str) -> list[Check]:
    """Do two engines give the same logits, as far as their precision goes?

    Args:
        first, second: npz files of `qwen3vl check --logits`.
        expected: folder of the reference's results, for the noise of that precision.
    """
    noise = max(Expected.load(file).noise.get(LOGITS, 0.0) for file in sorted(expected.rglob(f"{precision}-*.npz")))
    tolerance, checks = Tolerance(precision, noise), []
    with np.load(first) as ours, np.load(second) as theirs:
        for case in ours.files:
            result = tolerance.compare(case, "", ours[case], theirs[case])
            checks.append(Check(f"{case}: prefill logits", result.passed, result.error, result.limit))
    return checks


def load(report: Path, precision: str) -> list[Check]:
    """A load test's requests: were all answered, and as they are alone?"""
    values = json.loads(report.read_text())
    checks = []
    for offered in values["loads"]:
        failed = sum(offered["errors"].values())
        name = f"{offered['answered'] + failed} requests, {offered['concurrency']} at a time"
        checks += [Check(f"{name}: failed", failed == 0, failed, 0),
                   Check(f"{name}: tokens per second", offered["tokens_per_second"] > 0, offered["tokens_per_second"])]
    verified = values["verification"]
    share, allowed = len(verified["differences"]) / max(1, verified["compared"]), DIFFERENT_ANSWERS[precision]
    checks.append(Check("share of answers under load that differ from those alone", share <= allowed, share, allowed))
    return checks


def answer(log: Path, expected: str | None) -> list[Check]:
    """The answer that `qwen3vl demo` printed, behind the question that it shows.

    Args:
        expected: the text, where it is known.
    """
    _, _, text = log.read_text(errors="replace").partition("$ qwen3vl ask ")
    found = text.partition("\n")[2].strip()
    return [Check("answer to a question about a picture", bool(found) if expected is None else found == expected, found,
                  expected or "any text")]
