"""Jobs whose media tell the encoder of `tests.support.encode_model` what to do, and the rows that it makes of them."""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np

from qwen3vl.errors import InvalidRequest, Overloaded
from triton_repo.handoff.encode_task import EncodeTask
from triton_repo.handoff.job import EncodeJob, RowsDescription

DESCRIPTION = RowsDescription(hidden=32, levels=3, merge=2, dtype="FP32", engine="test")
ERRORS = {"invalid": InvalidRequest("the picture is no picture"), "busy": Overloaded("too much to do"),
          "broken": RuntimeError("the engine broke")}


def make_job(seed: int = 0, grid: tuple[int, int, int] = (1, 8, 8), *, seconds: float = 0, fail: str = "") -> EncodeJob:
    """Random rows of this seed, after so many seconds; or one of `ERRORS` instead."""
    media = json.dumps({"seed": seed, "seconds": seconds, "fail": fail}).encode()
    return EncodeJob(f"request-{seed}", hashlib.sha256(media).digest(), media, "image", grid)


def rows_of(job: EncodeJob, description: RowsDescription = DESCRIPTION) -> np.ndarray:
    """The rows of a job, the same each time."""
    count = description.tokens(job.grid) * description.rows_per_token * description.hidden
    values = np.random.default_rng(json.loads(job.media)["seed"]).integers(0, 30_000, count)
    return values.astype(description.numpy_dtype).reshape(-1, description.hidden)


def encode(task: EncodeTask, description: RowsDescription = DESCRIPTION) -> None:
    """Do as the media say. Blocks."""
    orders = json.loads(task.job.media)
    time.sleep(orders["seconds"])
    task.deliver(ERRORS.get(orders["fail"]) or rows_of(task.job, description))
