"""The CMake project of the vision kernels: what it says without headers, its test for any machine."""

import subprocess
from pathlib import Path

import pytest

from tests.plugins.cmake_projects import PLUGINS, needs_cmake, refusal, require_cpu_tests_pass

PROJECT = PLUGINS / "vision_kernels"
TILES = Path(__file__).parent / "native/vision_tiles_test.cpp"


def test_every_tile_has_its_place_and_is_attended_to_once(tmp_path: Path):
    program = tmp_path / "tiles"
    subprocess.run(["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
                    "-fno-sanitize-recover", "-I", PROJECT / "csrc", TILES, "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "tiles: ok\n"), run.stdout + run.stderr


@needs_cmake
@pytest.mark.parametrize("root", ["", "/nowhere"])
def test_missing_headers_are_explained(tmp_path: Path, root: str):
    message = refusal(PROJECT, tmp_path, f"-DONNXRUNTIME_ROOT={root}")
    for part in (f"ONNXRUNTIME_ROOT is '{root}'", "include/onnxruntime_c_api.h", "1.18 or newer",
                 "-DONNXRUNTIME_ROOT=<its folder>", "-DWITH_CUDA=OFF"):
        assert part in message


@needs_cmake
def test_the_cpu_test_builds_and_passes_without_cuda(tmp_path: Path):
    require_cpu_tests_pass(PROJECT, tmp_path)
