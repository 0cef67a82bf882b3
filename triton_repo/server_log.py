"""Reading the log of a `tritonserver`."""

from __future__ import annotations

import re
from pathlib import Path

TAIL_LINES = 30
LOADING = re.compile(r'"loading: ([^":]+):')
LOADED = re.compile(r"successfully loaded '([^']+)'")
# Information, warnings and tables: what is left are errors and what models print, tracebacks among it.
UNTELLING = re.compile(r"[IW]\d{4} |[|+]|\s*(<frozen .*)?$")
PREFIX = re.compile(r"E\d{4} [^]]*\] ")
NO_POOL = re.compile(r"CUDA memory pool disabled|Failed to \w+ CUDA memory manager")


class ServerLog:
    """The log file of a server that may still be writing it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def progress(self) -> list[str]:
        """What has happened to models since the last call, one line each."""
        with open(self.path, "rb") as log:
            log.seek(self._read)
            text = log.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._read += len(complete)
        lines = []
        for line in complete.decode("utf-8", "replace").splitlines():
            if match := LOADING.search(line):
                lines.append(f"loading {match.group(1)}")
            elif match := LOADED.search(line):
                lines.append(f"loaded {match.group(1)}")
        return lines

    def models_gone(self) -> bool:
        """Whether the server, told to stop, has unloaded all models."""
        return "Found 0 live models" in self.path.read_text("utf-8", "replace")

    def lacks_gpu_pool(self) -> bool:
        """Whether the server said that it has no pool of GPU memory, on purpose or not."""
        return NO_POOL.search(self.path.read_text("utf-8", "replace")) is not None

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines that tell of errors, each once, for error messages."""
        text = self.path.read_text("utf-8", "replace").splitlines()
        # Triton puts a whole traceback, which the model has printed already, into one line.
        errors = [PREFIX.sub("", line).split("\\n")[0] for line in text if not UNTELLING.match(line)]
        last = list(dict.fromkeys(errors))[-lines:]
        return "\n".join([f"From its log ({self.path}):", *(f"  {line}" for line in last)])
