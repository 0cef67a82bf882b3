"""The verification: what it runs, what it remembers, how it judges and what it reports."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.verification import evidence
from bench.verification.plan import BUNDLED, PROJECT, Settings, make_plan
from bench.verification.report import write_report
from bench.verification.runner import Runner
from bench.verification.step import Check, Status, Step
from client.cli import COMMANDS, main
from engines.fidelity.expected import LOGITS, Expected
from export.trtllm.parallel import Parallelism

MACHINE = {"date": "2030-01-01", "processor": "a processor", "cores": 2, "memory_bytes": 2**30, "python": "3.11",
           "versions": {"numpy": "1.26.4"}, "gpus": [{"name": "NVIDIA H200", "compute_cap": "9.0"}],
           "container": {"TRT_VERSION": "10.13"}}


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def append(path: Path) -> tuple[str, ...]:
    return python(f"open({str(path)!r}, 'a').write('x')")


def run(folder: Path, *steps: Step, **inputs) -> dict[str, Status]:
    runner = Runner(folder, inputs)
    runner.run(steps)
    return {name: outcome.status for name, outcome in runner.outcomes.items()}


def test_a_step_that_passed_is_not_run_again_and_one_that_failed_is(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    steps = (Step("good", "", (append(good),)),
             Step("bad", "", (append(bad), python("print('on its way'); raise SystemExit(3)"), python("never")),
                  needs=("good",)),
             Step("after", "", needs=("bad",)))
    for count in (1, 2):
        assert run(tmp_path, *steps) == {"good": Status.PASSED, "bad": Status.FAILED, "after": Status.NOT_RUN}
        assert (good.read_text(), bad.read_text()) == ("x", "x" * count)
    log = (tmp_path / "logs/bad.txt").read_text()
    assert log.count("$ ") == 2 and "on its way" in log


@pytest.mark.parametrize("change", ["command", "inputs", "force", "needed step"])
def test_what_has_changed_is_run_again(tmp_path: Path, change: str) -> None:
    count = tmp_path / "count"
    first = Step("first", "", (python("pass"),))
    step = Step("step", "", (append(count),), needs=("first",))
    run(tmp_path, first, step)
    if change == "force":
        Runner(tmp_path, {}, force=True).run([first, step])
    elif change == "needed step":
        run(tmp_path, Step("first", "", (python("pass  # other"),)), step)
    else:
        changed = Step("step", "", (*step.commands, python("pass")), needs=("first",)) if change == "command" else step
        run(tmp_path, first, changed, **({"checkpoints": 2} if change == "inputs" else {}))
    assert count.read_text() == "xx"


def test_checks_decide_and_whatever_goes_wrong_in_them_is_a_failure(tmp_path: Path) -> None:
    made, runs = tmp_path / "made", iter(["", "another"])
    made.write_text("stale")
    steps = (
        Step("fails", "", (python("pass"),), lambda: [Check("a", True, 1.0), Check("b", False, 2.0, 1.0)]),
        Step("breaks", "", (), lambda: [Check("a", made.read_text(), 1.0)], makes=(made,)),
        Step("missing", "", (("no-such-command", "--help"),)),
        Step("no evidence", "", (python("raise SystemExit(1)"),), made.read_text, makes=(made,), judged=(1,)),
        Step("judged", "", (python("raise SystemExit(1)"),), lambda: [Check("a", next(runs) == "", 0)], judged=(1,)))
    runner = Runner(tmp_path, {})
    runner.run(steps)
    found = {name: (outcome.status, outcome.reason) for name, outcome in runner.outcomes.items()}
    assert found == {"fails": (Status.FAILED, "1 of 2 checks failed"), "judged": (Status.PASSED, ""),
                     "missing": (Status.FAILED, "exit code 127, see logs/missing.txt"),
                     "no evidence": (Status.FAILED, "exit code 1, see logs/no evidence.txt"),
                     "breaks": (Status.FAILED, f"FileNotFoundError: [Errno 2] No such file or directory: '{made}'")}


def test_the_report_says_everything(tmp_path: Path) -> None:
    runner = Runner(tmp_path, {})
    runner.run([Step("one", "first step", (python("pass"),), lambda: [Check("rows", True, 0.00123456, 0.01)]),
                Step("two", "second step", (), lambda: [Check("text", False, "a|b", "c")]),
                Step("three", "third step", needs=("two",))])
    assert not write_report(tmp_path, "qwen3vl verify", "trtllm", MACHINE, list(runner.outcomes.values()))
    text = (tmp_path / "report.md").read_text()
    for part in ("target trtllm: FAILED", "| GPU 0 | NVIDIA H200, 9.0 |", "| numpy | 1.26.4 |",
                 "| TRT_VERSION | 10.13 |", "| rows | 0.001235 | 0.01 | ok |", "| text | a\\|b | c | **FAILED** |",
                 "1 of 1 checks failed",
                 "third step | not run: needs two", "Output: `logs/one.txt`"):
        assert part in text, part
    values = json.loads((tmp_path / "report.json").read_text())
    assert not values["passed"] and [step["status"] for step in values["steps"]] == ["passed", "failed", "not run"]
    assert write_report(tmp_path, "", "cpu", MACHINE, list(runner.outcomes.values())[:1])
    assert not write_report(tmp_path, "", "cpu", MACHINE, [])


@pytest.mark.parametrize("settings", [
    Settings("cpu", Path("/out")), Settings("trtllm", Path("/out")), Settings("trtllm", Path("/out"), plugin=False),
    Settings("trtllm", Path("/out"), parallelism=Parallelism(tp=4, pp=2, ep=2))],
    ids=["cpu", "trtllm", "no plugin", "eight GPUs"])
def test_every_command_of_a_plan_exists_and_takes_its_options(settings: Settings) -> None:
    steps = make_plan({"tiny-shapes": BUNDLED}, settings)
    seen: set[str] = set()
    for step in steps:
        assert set(step.needs) <= seen and step.name not in seen
        seen.add(step.name)
        assert step.commands or step.look
        for command in step.commands:
            if "client.cli" in command:
                parse(command[command.index("client.cli") + 1 :])
    words = " ".join(" ".join(command) for step in steps for command in step.commands)
    assert ("cmake" in words) is (settings.target == "trtllm" and settings.plugin)
    assert ("--no-plugin" in words) is (settings.target == "trtllm")
    launched = [command for step in steps for command in step.commands if command[0] == "mpirun"]
    assert len(launched) == (4 if settings.parallelism.world_size > 1 else 0)


def parse(arguments: tuple[str, ...]) -> None:
    """Let the command's own parser take the arguments."""
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    command = importlib.import_module(COMMANDS[" ".join(arguments[:words])][0])
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    parser.parse_args(list(arguments[words:]))


def load_report(differ: int = 0, **changes) -> dict:
    offered = {"concurrency": 4, "answered": 12, "errors": {}, "tokens_per_second": 99.0, **changes}
    return {"loads": [offered], "verification": {"compared": 20, "differences": [{}] * differ}}


@pytest.mark.parametrize(("changes", "precision", "passed"), [
    ({}, "fp32", True), ({"errors": {"overloaded": 1}}, "fp32", False), ({"tokens_per_second": 0.0}, "fp32", False),
    ({"differ": 1}, "fp32", False), ({"differ": 2}, "bf16", True), ({"differ": 3}, "bf16", False)])
def test_a_load_test_is_judged(tmp_path: Path, changes: dict, precision: str, passed: bool) -> None:
    (tmp_path / "load.json").write_text(json.dumps(load_report(**changes)))
    assert all(check.passed for check in evidence.load(tmp_path / "load.json", precision)) is passed


def test_an_answer_is_read_behind_its_question(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("$ python -m client.cli demo\nloading\n$ qwen3vl ask 'What?' --url x\nA red circle.\n")
    assert evidence.answer(log, "A red circle.")[0].passed and evidence.answer(log, None)[0].passed
    assert not evidence.answer(log, "A blue one.")[0].passed
    log.write_text("$ python -m client.cli demo\nerror: no server\n")
    assert not evidence.answer(log, None)[0].passed


def test_two_paths_agree_within_the_precision_s_noise(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32)
    empty = np.empty((0, 9), np.float32)
    folder = tmp_path / "expected/abc"
    folder.mkdir(parents=True)
    Expected("", empty, logits, np.empty(0, np.int32), empty, {LOGITS: 0.01}, empty).save(folder / "bf16-text.npz")
    np.savez(tmp_path / "a.npz", text=logits)
    for factor, passed in ((1.02, True), (1.05, False)):
        np.savez(tmp_path / "b.npz", text=logits * factor)
        (check,) = evidence.same_logits(tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "expected", "bf16")
        assert check.passed is passed


def test_comparisons_that_broke_off_are_no_evidence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did not come to their end"):
        evidence.fidelity(tmp_path, tmp_path / "logits.npz")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["verify", str(tmp_path), "--target", "cpu", "-o", str(tmp_path / "out")]) == 1
    assert "config.json does not exist" in capsys.readouterr().err
    assert main(["verify", str(BUNDLED), str(BUNDLED), "--target", "cpu", "-o", str(tmp_path / "out")]) == 1
    assert "have the same folder name" in capsys.readouterr().err


def test_the_rehearsal_passes_on_the_bundled_model(tmp_path: Path) -> None:
    command = ["scripts/verify_gpu.sh", "--target", "cpu", "--output", str(tmp_path), "--python", sys.executable]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert str(tmp_path / "report.md") in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] and report["machine"]["versions"]["transformers"]
    checks = [check["name"] for step in report["steps"] for check in step["checks"]]
    for part in ("DeepStack level 3", "canary", "greedy text", "in chunks", "answer to a question", "tokens per sec"):
        assert any(part in check for check in checks), part
