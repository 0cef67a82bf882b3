"""How much memory this process has."""

from __future__ import annotations

FIELDS = {"VmRSS": "resident", "RssAnon": "private", "RssFile": "mapped", "VmHWM": "peak"}


def memory() -> dict[str, int]:
    """Of this process, in bytes: resident, of that private and mapped from files, and the largest there was."""
    with open("/proc/self/status") as status:
        values = dict(line.split(":", 1) for line in status)
    return {label: int(values[name].split()[0]) * 1024 for name, label in FIELDS.items()}
