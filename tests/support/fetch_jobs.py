"""A language side in a process of its own: `python -m tests.support.fetch_jobs [--seconds N] URL TRANSPORT SEED...`.

Fetches a large job of each seed, all at once, and compares. Prints one line of JSON: the error of each job, or null,
and how many streams were opened.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.support.encode_jobs import DESCRIPTION, make_job, rows_of
from triton_repo.handoff.receiver import EncodeConnection
from triton_repo.handoff.settings import ReceiverSettings

SECONDS = 50
# 1.5 MiB of rows.
GRID = (1, 96, 128)
SETTINGS = ReceiverSettings(block_bytes=65536, buffer_bytes=4 * 65536, connect_seconds=3, heartbeat_seconds=0.3,
                            stall_seconds=2, attempts=40)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0, help="that each job takes")
    parser.add_argument("url")
    parser.add_argument("transport")
    parser.add_argument("seeds", nargs="+", type=int)
    arguments = parser.parse_args()
    connection = EncodeConnection(arguments.url, arguments.transport, DESCRIPTION, SETTINGS)
    streams = set()

    def watch() -> bool:
        """Not cancelled, but asked now and then."""
        streams.add(getattr(connection._stream, "session", None))
        return False

    def fetch(seed: int) -> str | None:
        job = make_job(seed, GRID, seconds=arguments.seconds)
        try:
            rows = connection.fetch(job, time.monotonic() + SECONDS, watch)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None if np.array_equal(rows, rows_of(job)) else "wrong rows"

    with ThreadPoolExecutor(len(arguments.seeds)) as pool:
        errors = list(pool.map(fetch, arguments.seeds))
    connection.close()
    print(json.dumps({"errors": errors, "streams": len(streams - {None})}))


if __name__ == "__main__":
    main()
