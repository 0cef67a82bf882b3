"""Progress of long work: a bar with rate and time left."""

from __future__ import annotations

import sys

from tqdm import tqdm


def byte_progress(title: str, total: int) -> tqdm:
    """A bar that counts bytes; without a terminal it prints a line every ten seconds."""
    return tqdm(total=total, desc=title, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr,
                mininterval=0.1 if sys.stderr.isatty() else 10)
