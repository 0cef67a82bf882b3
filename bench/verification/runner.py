"""Running steps: each in a process of its own, remembered when it has passed."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from bench.verification.step import Command, Outcome, Status, Step
from export.build_folder import replacing, sha256

PROJECT = Path(__file__).parents[2]
SOURCES = ("bench", "client", "engines", "export", "plugins", "qwen3vl", "triton_repo")
NO_SUCH_COMMAND = 127


class Runner:
    """Runs steps in order and keeps their outcomes in files, so that a second run goes on where the first one ended.

    A step is run again if it did not pass, if it or the project's sources have changed, or if one that it needs was run
    again.

    Attributes:
        outcomes: of the steps so far, in order.

    Args:
        folder: for records and logs.
        inputs: what the steps work on, as JSON values.
        force: run everything again.
    """

    def __init__(self, folder: Path, inputs: dict, force: bool = False):
        self._folder, self._force = folder, force
        self._base = _digest([inputs, *(sha256(PROJECT / name) for name in SOURCES)])
        self.outcomes: dict[str, Outcome] = {}
        for name in ("steps", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def run(self, steps: Sequence[Step]) -> None:
        for number, step in enumerate(steps, 1):
            _say(f"[{number}/{len(steps)}] {step.title}")
            outcome = self.outcomes[step.name] = self._outcome(step)
            self._remember(outcome)
            _say(f"    {outcome.status}{f' ({outcome.reason})' if outcome.reason else ''}, {outcome.seconds:.0f} s")
            for check in outcome.checks:
                if not check.passed:
                    _say(f"    FAILED: {check.name}: {check.measured}, allowed {check.limit}")

    def _outcome(self, step: Step) -> Outcome:
        missing = [name for name in step.needs if self.outcomes[name].status is not Status.PASSED]
        if missing:
            return Outcome(step.name, step.title, Status.NOT_RUN, reason=f"needs {', '.join(missing)}")
        key = _digest([self._base, step.name, step.commands, *(self.outcomes[name].key for name in step.needs)])
        before = self._remembered(step.name)
        if not self._force and before and before.status is Status.PASSED and before.key == key:
            _say("    done before")
            return before
        return self._run(step, key)

    def _run(self, step: Step, key: str) -> Outcome:
        started, log = time.monotonic(), f"logs/{step.name}.txt"
        for file in step.makes:
            file.unlink(missing_ok=True)
        code = self._execute(step.commands, self._folder / log)
        failure = f"exit code {code}, see {log}" if code else ""
        checks, reason = [], "" if code in step.judged else failure
        try:
            checks = step.look() if step.look else []
        except Exception as error:  # whatever it is, the other steps and the report go on
            reason = failure or f"{type(error).__name__}: {error}"
        if not reason and not all(check.passed for check in checks):
            reason = f"{sum(not check.passed for check in checks)} of {len(checks)} checks failed"
        return Outcome(step.name, step.title, Status.FAILED if reason else Status.PASSED, key,
                       time.monotonic() - started, reason, log if step.commands else "", step.commands, tuple(checks))

    def _execute(self, commands: Sequence[Command], log: Path) -> int:
        """Run processes whose output goes to the terminal and a file. Returns the first exit code that is not 0."""
        log.unlink(missing_ok=True)
        for command in commands:
            with open(log, "ab") as stream:
                if code := _run(command, stream):
                    return code
        return 0

    def _remember(self, outcome: Outcome) -> None:
        with replacing(self._record(outcome.name)) as temporary:
            temporary.write_text(json.dumps(asdict(outcome), indent=2) + "\n")

    def _remembered(self, name: str) -> Outcome | None:
        path = self._record(name)
        return Outcome.from_dict(json.loads(path.read_text())) if path.exists() else None

    def _record(self, name: str) -> Path:
        return self._folder / "steps" / f"{name}.json"


def _run(command: Command, log: BinaryIO) -> int:
    log.write(f"$ {shlex.join(command)}\n".encode())
    log.flush()
    try:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL)
    except OSError as error:
        log.write(f"{error}\n".encode())
        return NO_SUCH_COMMAND
    try:
        while block := os.read(process.stdout.fileno(), 65536):
            log.write(block)
            log.flush()
            sys.stderr.write(block.decode(errors="replace"))
            sys.stderr.flush()
    finally:
        code = process.wait()  # Ctrl-C reaches the process too: it cleans up
    return code


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
