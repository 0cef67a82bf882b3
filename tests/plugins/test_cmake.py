"""The CMake project: what it says where TensorRT is missing, and its test for machines without CUDA."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "plugins/deepstack_add"

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")


def configure(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", PROJECT, "-B", build, "-DCMAKE_CXX_COMPILER=g++", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("root", ["", "/nowhere"])
def test_missing_tensorrt_is_explained(tmp_path: Path, root: str) -> None:
    run = configure(tmp_path, f"-DTENSORRT_ROOT={root}")
    message = " ".join(run.stderr.split())
    assert run.returncode != 0
    for part in (f"TENSORRT_ROOT is '{root}'", "include/NvInferRuntime.h", "TensorRT 10.13 or newer",
                 "-DTENSORRT_ROOT=", "-DWITH_TENSORRT=OFF"):
        assert part in message


def test_index_test_builds_and_passes_without_cuda(tmp_path: Path) -> None:
    run = configure(tmp_path, "-DWITH_CUDA=OFF")
    assert run.returncode == 0, run.stderr
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    tests = subprocess.run(["ctest", "--test-dir", tmp_path], capture_output=True, text=True, check=False)
    assert tests.returncode == 0 and "100% tests passed, 0 tests failed out of 1" in tests.stdout, tests.stdout
