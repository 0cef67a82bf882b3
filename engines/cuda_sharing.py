"""Can processes of this machine share GPU memory? Tried before anyone depends on it.

    python -m engines.cuda_sharing HANDLE        prints the first bytes of the memory that another process shares

Sandboxes, containers with process namespaces of their own and some virtual GPUs refuse it, and say so only when a
process opens what another one shares.
"""

from __future__ import annotations

import secrets
import subprocess
import sys

import numpy as np

from engines.cuda_driver import Gpu
from qwen3vl.errors import ArtifactError

PROBE_BYTES = 16
PROBE_SECONDS = 60


def sharing_problem(python: str) -> str:
    """What keeps other processes from reading GPU memory of this one; "" if nothing does.

    Takes about as long as a process takes to start and to find its GPU.

    Args:
        python: an interpreter that has this project.
    """
    try:
        return _try(Gpu(), python)
    except (ArtifactError, OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def _try(gpu: Gpu, python: str) -> str:
    secret = np.frombuffer(secrets.token_bytes(PROBE_BYTES), np.uint8)
    stream, address = gpu.create_stream(), gpu.allocate(PROBE_BYTES)
    try:
        gpu.upload(address, secret, stream)
        gpu.synchronise(stream)
        command = [python, "-m", "engines.cuda_sharing", gpu.share(address).hex()]
        found = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    finally:
        gpu.free(address)
        gpu.destroy_stream(stream)
    if found.returncode:
        return f"another process could not open it: {(found.stderr.strip() or 'no reason given').splitlines()[-1]}"
    return "" if found.stdout.strip() == secret.tobytes().hex() else "another process read something else there"


def main(handle: str) -> None:
    gpu, read = Gpu(), np.empty(PROBE_BYTES, np.uint8)
    stream, address = gpu.create_stream(), gpu.open_shared(bytes.fromhex(handle))
    gpu.download(read, address, stream)
    gpu.synchronise(stream)
    gpu.close_shared(address)
    print(read.tobytes().hex())


if __name__ == "__main__":
    main(sys.argv[1])
