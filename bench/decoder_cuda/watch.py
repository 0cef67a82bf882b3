"""A time limit for work on the GPU that may hang."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def watched(name: str, seconds: float = 30) -> Iterator[None]:
    """Says `name`, and ends the process, after a traceback, when the body and its GPU work take longer."""
    print(f"{name} ...", flush=True)
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
        torch.cuda.synchronize()
    finally:
        faulthandler.cancel_dump_traceback_later()
