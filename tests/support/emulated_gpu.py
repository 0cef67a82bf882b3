"""A GPU for tests without one: emulated_cuda/, compiled, and ONNX Runtime computing in its memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from engines import cuda_driver
from engines.description import EngineDescription
from engines.onnxruntime.cuda_decoder_build import write_cuda_decoder
from triton_repo.roles import Role

PROLOGUE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.support.emulated_gpu import compute_on_the_host
compute_on_the_host()
"""
SOURCES = Path(__file__).parent / "emulated_cuda"
COUNTERS = ("to_device", "to_host", "within", "held", "opened")


@dataclass(frozen=True)
class EmulatedGpu:
    """Attributes: the `folder` of the driver's library, and the `counts` of all processes that use it."""

    folder: Path
    counts_file: Path

    @property
    def library(self) -> Path:
        return self.folder / "libcuda.so.1"

    def counts(self) -> dict[str, int]:
        """Bytes copied to and from the host and within, bytes held, and how often memory was opened."""
        return dict(zip(COUNTERS, np.fromfile(self.counts_file, np.int64).tolist(), strict=True))


@pytest.fixture(scope="session")
def emulated_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library by both of its names."""
    folder = tmp_path_factory.mktemp("emulated_cuda")
    subprocess.run(["gcc", "-std=gnu17", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-value",
                    *sorted(SOURCES.glob("*.c")), f"-Wl,--version-script={SOURCES / 'symbols.map'}",
                    "-Wl,-soname,libcuda.so.1", "-ldl", "-lpthread", "-o", folder / "libcuda.so.1"], check=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return folder


@pytest.fixture
def emulated_gpu(emulated_driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatedGpu:
    """This process's GPU, and that of processes it starts."""
    return emulate(emulated_driver, tmp_path, monkeypatch)


def emulate(driver: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatedGpu:
    """The same for as long as the patches last. Counts are kept in `folder`."""
    gpu = EmulatedGpu(driver, folder / "counts")
    np.zeros(len(COUNTERS), np.int64).tofile(gpu.counts_file)
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(gpu.library))
    monkeypatch.setenv("EMULATED_CUDA_COUNTS", str(gpu.counts_file))
    search = [str(driver), os.environ.get("LD_LIBRARY_PATH", "")]
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(filter(None, search)))
    return gpu


def make_cuda_build(source: Path, folder: Path) -> None:
    """A build for the CPU made one for the target `cuda`, as far as a CPU can compute it, without a repository."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("decoder", "triton_repo*", "*.log"))
    config = EngineDescription.load(folder / "engines").config
    EngineDescription(config, "cuda", "fp32").save(folder / "engines/engine.json")
    (folder / "engines/decoder").mkdir()
    write_cuda_decoder(source / "onnx/decoder.onnx", folder / "engines/decoder", config, kernels=False)


@pytest.fixture(scope="module")
def cuda_build(live_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_cuda_build` makes of `live_build`."""
    folder = tmp_path_factory.mktemp("cuda") / "build"
    make_cuda_build(live_build, folder)
    return folder


def compute_on_the_host_in(build: Path, role: Role = Role.BOTH) -> None:
    """Make the models of a composed repository do so that have an engine."""
    for model in role.engines:
        file = build / role.folder / model / "1/model.py"
        if not file.read_text().startswith(PROLOGUE):
            file.write_text(PROLOGUE + file.read_text())


def compute_on_the_host() -> None:
    """Make ONNX Runtime, in this process, take engines for a GPU and addresses there for the host's: they are."""
    from engines.onnxruntime import cuda_decoder, cuda_session, vision_encoder
    from engines.onnxruntime.session import ENGINE_FILE, load_session, session_options

    def on_host(device: str, folder: Path, provider_options: object = None) -> onnxruntime.InferenceSession:
        return load_session(folder / ENGINE_FILE, session_options(1))

    cuda_session.load_on = cuda_decoder.load_on = on_host
    vision_encoder.load_cuda_engine = lambda folder: on_host("cuda", folder)
    cuda_decoder.load_decoder_session = lambda folder, device, stream, graphs: on_host(device, folder)
    for name in ("bind_input", "bind_output"):
        setattr(onnxruntime.IOBinding, name, _to_host(getattr(onnxruntime.IOBinding, name)))


def _to_host(bind):
    def bind_on_host(binding, name: str, device: str = "cpu", *rest) -> None:
        bind(binding, name, "cpu" if device == "cuda" else device, *rest)

    return bind_on_host
