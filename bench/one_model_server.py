"""A real `tritonserver` that serves one Python model and nothing else: ready in about a second."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from triton_repo.config_pbtxt import CONFIG_FILE, PythonModel, to_text, triton_config
from triton_repo.endpoints import LOOPBACK, Endpoints
from triton_repo.server_binary import find_server

READY_SECONDS = 120
READY = b"Started GRPCInferenceService"


class OneModelServer:
    """Use it as a context manager.

    Attributes:
        url: host:port of its gRPC endpoint.
        log: what it writes.

    Args:
        folder: an empty or missing one.
        model: what the server is told of the model.
        code: the file that becomes its `model.py`.
        grpc_port: where to listen; 0 is any free port.
        network: name of the network namespace to run in, which has `host`; by default this process's own.
    """

    def __init__(self, folder: Path, model: PythonModel, code: Path, host: str = LOOPBACK, grpc_port: int = 0,
                 network: str | None = None) -> None:
        version = folder / "models" / model.name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(code, version / "model.py")
        (version.parent / CONFIG_FILE).write_text(to_text(triton_config(model)))
        (folder / "runtime").mkdir()
        binary = find_server(None, folder / "runtime")
        port = Endpoints(http=0, grpc=grpc_port, metrics=0).chosen().grpc
        self.url, self.log = f"{host}:{port}", folder / "tritonserver.log"
        self._shared_memory = f"qwen3vl-one-model-{os.getpid()}-{port}-"
        arguments = [
            f"--model-repository={folder / 'models'}", "--disable-auto-complete-config", f"--grpc-address={host}",
            f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false", "--exit-timeout-secs=2",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}"]
        # Code of tests and benchmarks imports what is not installed.
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **binary.environment, "PYTHONPATH": path}
        inside = [] if network is None else ["ip", "netns", "exec", network]
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [*inside, str(binary.path), *binary.arguments, *arguments], env=environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def __enter__(self) -> OneModelServer:
        deadline = time.monotonic() + READY_SECONDS
        while READY not in self.log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End the server and its model's process at once, as a crash would."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in Path("/dev/shm").glob(f"{self._shared_memory}*"):
            file.unlink(missing_ok=True)

    def signal(self, number: int) -> None:
        """Send a signal to the server and its model's process."""
        os.killpg(self._process.pid, number)

    def model_process(self) -> int:
        """Id of the process in which the model runs."""
        children = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return next(int(child) for file in children for child in file.read_text().split())
