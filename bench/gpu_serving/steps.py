"""Steps of a recording, each with a time limit: one that fails leaves the others."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

# What a program may take to write what it has, once it is interrupted.
GRACE_SECONDS = 25
# Less is not worth starting a program for.
LEAST_SECONDS = 5


@dataclass
class Step:
    """Attributes: `outcome` is "ok", or says what went wrong."""

    name: str
    seconds: float
    outcome: str


@dataclass
class Steps:
    """Runs steps and notes what came of them.

    Attributes:
        logs: folder for what programs print.
        seconds: for all of them; programs that would come later are left out.
    """

    logs: Path
    seconds: float = math.inf
    started: float = field(default_factory=time.monotonic)
    done: list[Step] = field(default_factory=list)

    def call(self, name: str, run: Callable[[], object]) -> object:
        """What `run` returns; None where it raises."""
        started, outcome, found = time.monotonic(), "ok", None
        print(f"== {name} ...", flush=True)
        try:
            found = run()
        except Exception as error:
            traceback.print_exc()
            outcome = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        self._note(name, started, outcome)
        return found

    def program(self, name: str, arguments: Sequence[str], limit: float) -> bool:
        """Run `python ARGUMENTS`; after `limit` seconds it is interrupted, then killed. Whether it ended well."""
        started, log = time.monotonic(), self.logs / f"{name}.log"
        left = self.started + self.seconds - started
        if left < LEAST_SECONDS:
            self._note(name, started, "left out: no time")
            return False
        limit = min(limit, left)
        print(f"== {name} (at most {limit:.0f} s): {' '.join(arguments)}", flush=True)
        with open(log, "wb") as stream:
            process = subprocess.Popen([sys.executable, "-u", *arguments], stdout=stream, stderr=subprocess.STDOUT,
                                       start_new_session=True)
            outcome = _ended(process, limit)
        text = log.read_text(errors="replace").replace("\r", "\n").rstrip()
        print("\n".join(text.splitlines()[-30:]), flush=True)
        self._note(name, started, outcome)
        return outcome == "ok"

    def to_json(self) -> list[dict]:
        return [asdict(step) for step in self.done]

    def table(self) -> str:
        width = max(len(step.name) for step in self.done)
        return "\n".join(f"  {step.name:<{width}} {step.seconds:7.1f} s  {step.outcome}" for step in self.done)

    def _note(self, name: str, started: float, outcome: str) -> None:
        self.done.append(Step(name, round(time.monotonic() - started, 2), outcome))
        print(f"== {name}: {outcome} ({self.done[-1].seconds:.1f} s)", flush=True)


def _ended(process: subprocess.Popen, limit: float) -> str:
    """What came of a program that leads its own process group."""
    try:
        code = process.wait(limit)
        return "ok" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
        return f"interrupted after {limit:.0f} s"
    except subprocess.TimeoutExpired:
        return f"killed after {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
