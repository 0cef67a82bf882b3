"""What the hand-off of an image's visual rows costs, by transport, as a multiple of a plain memory copy.

    python -m bench.handoff -o bench/results/handoff_cpu.json

An encode server (a real tritonserver whose rows are ready) and this process on one machine; a 1920 x 1080 image of
Qwen3-VL-30B-A3B: 2040 visual tokens of four rows of 2048.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.environment import describe_machine
from bench.handoff_plot import plot
from bench.one_model_server import OneModelServer
from triton_repo.config_pbtxt import PythonModel
from triton_repo.handoff.bulk import checksum
from triton_repo.handoff.job import DTYPES, EncodeJob, RowsDescription
from triton_repo.handoff.receiver import EncodeConnection
from triton_repo.handoff.settings import ReceiverSettings
from triton_repo.handoff.transports.nixl import PACKAGES
from triton_repo.repository import ENCODE, HANDOFF

CODE = Path(__file__).with_name("handoff_model.py")
HIDDEN, LEVELS, MERGE = 2048, 3, 2
# Patches of 1920 x 1080, which is resized to 1920 x 1088.
GRID, ONE_TOKEN = (1, 68, 120), (1, 2, 2)
MIB = 1024 * 1024
BLOCK_SIZES = [size * MIB for size in (1, 2, 4, 8, 16)]
SECONDS = 60


def measure(rounds: int, names: Sequence[str], dtypes: Sequence[str] = tuple(DTYPES),
            block_sizes: Sequence[int] = BLOCK_SIZES) -> dict:
    """Everything, as it stands in the results: times in seconds.

    Args:
        rounds: fetches of each kind.
        names: of transports, out of `transports()`.
        dtypes: of the rows.
        block_sizes: in bytes; measured in BF16.
    """
    report = {"grid": GRID, "hidden": HIDDEN, "rows_per_token": 1 + LEVELS, "rounds": rounds, "dtypes": {}}
    for dtype in dtypes:
        description = RowsDescription(HIDDEN, LEVELS, MERGE, dtype, "benchmark")
        size = description.tokens(GRID) * description.token_bytes
        report["dtypes"][dtype] = {"bytes": size, **_memory(size, rounds), "transports": {
            name: _transport(name, description, rounds) for name in names}}
    description = RowsDescription(HIDDEN, LEVELS, MERGE, "BF16", "benchmark")
    report["block_bytes"] = {name: {str(block): _transport(name, description, rounds, block)["seconds"]
                                    for block in block_sizes} for name in names}
    return report


def transports() -> list[str]:
    """Names of what can be measured here."""
    nixl = ["nixl", "nixl over TCP"] if any(importlib.util.find_spec(package) for package in PACKAGES) else []
    return ["shared_memory", "grpc", *nixl]


def _memory(size: int, rounds: int) -> dict:
    """A copy into memory that is there, one into new memory as a fetch returns it, and a checksum."""
    source = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    target = np.empty_like(source)
    return {"copy_seconds": _median(lambda: np.copyto(target, source), rounds),
            "copy_to_new_seconds": _median(lambda: source.copy(), rounds),
            "checksum_seconds": _median(lambda: checksum(source), rounds)}


def _transport(name: str, description: RowsDescription, rounds: int, block: int | None = None) -> dict:
    """The median of fetches of the image, and of one visual token: what the protocol takes without the rows."""
    settings = ReceiverSettings() if block is None else ReceiverSettings(block_bytes=block)
    with _ucx(name), tempfile.TemporaryDirectory() as folder, _server(Path(folder), description) as server:
        connection = EncodeConnection(server.url, name.partition(" ")[0], description, settings)
        try:
            return {"seconds": _median(lambda: _fetch(connection, GRID), rounds),
                    "one_token_seconds": _median(lambda: _fetch(connection, ONE_TOKEN), rounds)}
        finally:
            connection.close()


def _fetch(connection: EncodeConnection, grid: tuple[int, int, int]) -> np.ndarray:
    return connection.fetch(EncodeJob("benchmark", bytes(32), b"", "image", grid), time.monotonic() + SECONDS)


def _server(folder: Path, description: RowsDescription) -> OneModelServer:
    message, payload = HANDOFF
    parameters = {"description": json.dumps(dataclasses.asdict(description)), "tokens": str(description.tokens(GRID))}
    return OneModelServer(folder, PythonModel(
        ENCODE, (message, dataclasses.replace(payload, optional=True)), HANDOFF, decoupled=True,
        parameters=parameters), CODE)


@contextmanager
def _ucx(name: str) -> Iterator[None]:
    """Within one machine UCX would not take TCP by itself."""
    before = os.environ.pop("UCX_TLS", None)
    if name.endswith("TCP"):
        os.environ["UCX_TLS"] = "tcp"
    yield
    os.environ.pop("UCX_TLS", None)
    if before is not None:
        os.environ["UCX_TLS"] = before


def _median(run: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 3):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=21, help="fetches of each kind (default: 21)")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=tuple(DTYPES),
                        help=f"of the rows (default: {' '.join(DTYPES)})")
    parser.add_argument("--block-mib", type=int, nargs="+", metavar="MIB",
                        default=[size // MIB for size in BLOCK_SIZES],
                        help="sizes of blocks, measured in BF16 (default: 1 2 4 8 16)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON; a plot is put beside it")
    arguments = parser.parse_args()
    report = {**describe_machine(), **measure(arguments.rounds, transports(), arguments.dtypes,
                                              [size * MIB for size in arguments.block_mib])}
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    plot(report, arguments.output.with_suffix(".png"))
    for dtype, measured in report["dtypes"].items():
        for name, times in measured["transports"].items():
            print(f"{dtype} {name}: {1e3 * times['seconds']:.1f} ms, "
                  f"{times['seconds'] / measured['copy_to_new_seconds']:.1f} copies")


if __name__ == "__main__":
    main()
