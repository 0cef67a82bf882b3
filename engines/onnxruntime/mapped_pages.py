"""Giving pages of mapped files back to the system."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

SMAPS = Path("/proc/self/smaps")
# A mapping's first line: its addresses, permissions, offset, device, inode and, if it is a file's, path.
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)$")
# What was written to a private mapping, in memory or swapped out.
WRITTEN = ("Anonymous:", "Swap:")


def release_mapped_pages(file: Path) -> int:
    """Take the pages of a mapped file from this process's memory. What is read again is mapped again.

    Only mappings to which nothing was written are touched: what was written to private ones would be lost. Needs Linux;
    elsewhere nothing happens.

    Returns:
        Bytes of the mappings that were released.
    """
    if not SMAPS.exists():
        return 0
    released = 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _unwritten_mappings(file):
        if madvise(start, end - start, mmap.MADV_DONTNEED) == 0:
            released += end - start
    return released


def _unwritten_mappings(file: Path) -> list[tuple[int, int]]:
    """First address and the one behind the last of this process's mappings of a file."""
    path, written = str(file.resolve()), {}
    current = None
    for line in SMAPS.read_text().splitlines():
        if match := MAPPING.match(line):
            current = (int(match[1], 16), int(match[2], 16)) if match[3] == path else None
        elif current and line.startswith(WRITTEN):
            written[current] = written.get(current, 0) + int(line.split()[1])
    return [mapping for mapping, size in written.items() if size == 0]
