"""Checks that stand alone: each is given up after some seconds, and what one finds leaves those behind it."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from engines.cuda_sharing import sharing_problem


@dataclass
class Checks:
    """Runs checks, and remembers what they found."""

    limit: float
    results: dict[str, dict] = field(default_factory=dict)

    def __call__(self, name: str, run: Callable[[], object]) -> object:
        """What a check returned, None where it failed or was given up. Texts are what it found."""
        outcome: list[object] = []
        thread = threading.Thread(target=lambda: outcome.append(_attempt(run)), name=name, daemon=True)
        began = time.monotonic()
        thread.start()
        thread.join(self.limit)
        if not outcome:
            faulthandler.dump_traceback(file=sys.__stderr__)
        return self._told(name, began, *(outcome[0] if outcome else (False, f"not done after {self.limit:.0f} s")))

    def here(self, name: str, run: Callable[[], object]) -> object:
        """The same in this thread, for what watches its own time: a server ends with the thread that started it."""
        return self._told(name, time.monotonic(), *_attempt(run))

    def _told(self, name: str, began: float, passed: bool, found: object) -> object:
        text, seconds = found if isinstance(found, str) else "", time.monotonic() - began
        self.results[name] = {"passed": passed, "seconds": round(seconds, 2), "found": text}
        print(f"{'ok  ' if passed else 'FAIL'} {name} ({seconds:.1f} s) {text}", flush=True)
        return found if passed else None


def _attempt(run: Callable[[], object]) -> tuple[bool, object]:
    try:
        return True, run()
    except Exception as error:
        traceback.print_exc()
        return False, f"{type(error).__name__}: {error}"


def shared() -> str:
    """Whether processes here can share GPU memory; found by trying."""
    problem = sharing_problem(sys.executable)
    require(not problem, problem)
    return ""


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError unless the condition holds."""
    if not condition:
        raise AssertionError(message)
