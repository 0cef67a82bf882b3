"""Finding a server, and the environment that its Python backend needs."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from qwen3vl.errors import ArtifactError
from triton_repo import server_binary
from triton_repo.server_binary import find_libpython, find_server


@pytest.fixture
def no_server_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def test_packaged_server_is_linked_and_not_touched(tmp_path: Path, no_server_on_path) -> None:
    binary = find_server(None, tmp_path)
    assert binary.path.is_file()
    backend = tmp_path / "backends/python"
    assert binary.arguments == (f"--backend-directory={tmp_path}/backends",)
    assert sorted(file.name for file in backend.iterdir()) == [
        "libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"]
    assert all(file.is_symlink() for file in backend.iterdir())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (backend / "triton_python_backend_stub").resolve().parent.name == version


def test_stub_runs_in_this_environment(tmp_path: Path, no_server_on_path) -> None:
    binary = find_server(None, tmp_path)
    environment = {**os.environ, **binary.environment}
    # What the stub does: the first python3 on PATH decides where packages come from.
    prefix = subprocess.run(["python3", "-c", "import sys; print(sys.prefix)"], env=environment, text=True,
                            capture_output=True, check=True).stdout.strip()
    assert prefix == sys.prefix


def test_libpython_is_this_interpreters(tmp_path: Path) -> None:
    library = find_libpython()
    assert library.name == f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    assert ctypes.CDLL(str(library)).Py_GetVersion


def test_missing_libpython_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    with pytest.raises(ArtifactError, match=r"libpython3\.\d+\.so\.1\.0 was not found.*apt install libpython3"):
        find_libpython()


def test_numpy_that_the_stub_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                   no_server_on_path) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.4.6" if name == "numpy" else real(name))
    with pytest.raises(ArtifactError, match=r"numpy 2\.4\.6 is installed, .* needs numpy below 2"):
        find_server(None, tmp_path)


def test_stub_that_does_not_start_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                               no_server_on_path) -> None:
    wrong = tmp_path / "libwrong.so"
    wrong.write_text("no library")
    monkeypatch.setattr(server_binary, "find_libpython",
                        lambda: wrong.rename(tmp_path / find_libpython().name))
    (tmp_path / "runtime").mkdir()
    with pytest.raises(ArtifactError, match=r"does not start on this machine \(exit code 127\)"):
        find_server(None, tmp_path / "runtime")


def test_without_package_and_server_both_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                   no_server_on_path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ArtifactError, match=r"no tritonserver on PATH .* --server"):
        find_server(None, tmp_path)


def test_server_on_path_comes_before_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = tmp_path / "tritonserver"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    binary = find_server(None, tmp_path)
    assert (binary.path, binary.arguments, binary.environment) == (server, (), {})


def test_named_server_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere/tritonserver is not an executable tritonserver"):
        find_server("nowhere/tritonserver", tmp_path)
