"""The CMake project of the vision kernels: what it says without headers, its test for any machine."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "plugins/vision_kernels"
TILES = Path(__file__).parent / "native/vision_tiles_test.cpp"


def configure(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", PROJECT, "-B", build, "-DCMAKE_CXX_COMPILER=g++", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_tile_has_its_place_and_is_attended_to_once(tmp_path: Path):
    program = tmp_path / "tiles"
    subprocess.run(["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
                    "-fno-sanitize-recover", "-I", PROJECT / "csrc", TILES, "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "tiles: ok\n"), run.stdout + run.stderr


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
@pytest.mark.parametrize("root", ["", "/nowhere"])
def test_missing_headers_are_explained(tmp_path: Path, root: str):
    run = configure(tmp_path, f"-DONNXRUNTIME_ROOT={root}")
    message = " ".join(run.stderr.split())
    assert run.returncode != 0
    for part in (f"ONNXRUNTIME_ROOT is '{root}'", "include/onnxruntime_c_api.h", "1.18 or newer",
                 "-DONNXRUNTIME_ROOT=<its folder>", "-DWITH_CUDA=OFF"):
        assert part in message


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_the_cpu_test_builds_and_passes_without_cuda(tmp_path: Path):
    run = configure(tmp_path, "-DWITH_CUDA=OFF")
    assert run.returncode == 0, run.stderr
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    tests = subprocess.run(["ctest", "--test-dir", tmp_path], capture_output=True, text=True, check=False)
    assert tests.returncode == 0 and "100% tests passed, 0 tests failed out of 1" in tests.stdout, tests.stdout
