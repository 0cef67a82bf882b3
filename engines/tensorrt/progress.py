"""TensorRT's build phases as a progress bar."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

from tqdm import tqdm


def progress_monitor(trt: ModuleType, title: str):
    """A progress monitor that shows the phase at work and counts the steps of all phases.

    An interrupt (Ctrl-C) cancels the build at its next step; `cancelled` then is true. Close it after the build.
    """

    class Progress(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._lock = threading.Lock()
            self._done: dict[str, int] = {}
            self._totals: dict[str, int] = {}
            self._bar = tqdm(total=0, desc=title, unit=" steps", file=sys.stderr,
                             mininterval=0.1 if sys.stderr.isatty() else 10)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._totals[phase_name], self._done[phase_name] = num_steps, 0
                self._bar.total += num_steps
                self._bar.set_postfix_str(phase_name, refresh=False)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                self._advance(phase_name, step + 1)
            except KeyboardInterrupt:
                self.cancelled = True
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._advance(phase_name, self._totals[phase_name])

        def close(self) -> None:
            self._bar.close()

        def _advance(self, phase: str, done: int) -> None:
            with self._lock:
                self._bar.update(done - self._done[phase])
                self._done[phase] = done

    return Progress()
