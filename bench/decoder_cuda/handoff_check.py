"""Does the hand-off's transport through GPU memory work on this GPU, what does it cost, and what does a kill do to it?

    python -m bench.decoder_cuda.handoff_check --output handoff.json

Visual rows of a 1920x1080 image from a real tritonserver to this process, by `cuda_shared_memory` and, beside it, by
`shared_memory`. Then the owner of GPU memory is killed while another process has it open and goes on writing: CUDA
promises nothing there, so what counts is whether the writer's own memory works afterwards. Each check stands alone and
is given up after `--limit` seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.decoder_cuda.checks import Checks, require, shared
from bench.handoff import MIB, measure
from triton_repo.handoff.errors import TransportFailed
from triton_repo.handoff.transports import block_writer, receive_buffers

TRANSPORT = "cuda_shared_memory"
NAMES = (TRANSPORT, "shared_memory")
SLOT, SLOTS, WRITES = 8 * MIB, 4, 100
OWNER = "owner"


def own() -> None:
    """Say where block buffers are, and keep them until killed."""
    print(json.dumps(receive_buffers(TRANSPORT, SLOT, SLOTS * SLOT).describe()), flush=True)
    sys.stdin.read()


def write_after_a_kill() -> None:
    """Say what writes do whose receiver is killed, and whether memory of this process works behind them."""
    owner = subprocess.Popen([sys.executable, "-m", __spec__.name, "--part", OWNER], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    writer, block = block_writer(TRANSPORT, json.loads(owner.stdout.readline())), np.ones(SLOT, np.uint8)
    writer.write(0, block)
    owner.kill()
    found = "writes go on without an error"
    try:
        for number in range(WRITES):
            writer.write(number % SLOTS, block)
            if number == WRITES // 2:
                owner.wait()
    except TransportFailed as error:
        found = f"writes fail: {error}"
    try:
        writer.close()
        require(_works(), "a copy came back wrong")
    except (TransportFailed, AssertionError) as error:
        print(f"{found}; the writer's own GPU memory does not work any more: {error}")
        raise SystemExit(1) from None
    print(f"{found}; the writer's own GPU memory works")


def _works() -> bool:
    """Whether a block comes back from this process's own GPU memory as it went there."""
    from engines.onnxruntime.device_memory import GpuMemory
    from qwen3vl.errors import ArtifactError

    array, read = np.arange(SLOT // 4, dtype=np.int32), np.empty(SLOT // 4, np.int32)
    try:
        memory = GpuMemory()
        address = memory.allocate(SLOT)
        memory.upload(address, array)
        memory.download(read, address)
    except ArtifactError as error:
        raise TransportFailed(str(error)) from error
    return bool((array == read).all())


def killed_receiver() -> str:
    found = subprocess.run([sys.executable, "-m", __spec__.name, "--part", write_after_a_kill.__name__],
                           capture_output=True, text=True, check=False)
    require(found.returncode == 0, found.stdout.strip() or found.stderr.strip() or f"exit code {found.returncode}")
    return found.stdout.strip()


def timed(rounds: int, report: dict) -> str:
    report.update(measure(rounds, NAMES, ["FP32"], [8 * MIB]))
    found = report["dtypes"]["FP32"]
    return ", ".join(f"{name} {found['transports'][name]['seconds'] * 1e3:.1f} ms" for name in NAMES) + (
        f" for {found['bytes'] / 1e6:.0f} MB; a copy {found['copy_seconds'] * 1e3:.1f} ms")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for each check")
    parser.add_argument("--part", choices=(OWNER, write_after_a_kill.__name__), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part is not None:
        own() if args.part == OWNER else write_after_a_kill()
        return 0
    check, report = Checks(args.limit), {}
    check("GPU memory can be shared between processes", shared)
    check("time of a hand-off", lambda: timed(args.rounds, report))
    check("writes to a killed receiver", killed_receiver)
    if args.output is not None:
        args.output.write_text(json.dumps({"checks": check.results, **report}, indent=1) + "\n")
    return 0 if all(result["passed"] for result in check.results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
