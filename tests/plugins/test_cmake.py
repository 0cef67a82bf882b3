"""The CMake project: what it says where TensorRT is missing, and its test for machines without CUDA."""

from pathlib import Path

import pytest

from tests.plugins.cmake_projects import PLUGINS, needs_cmake, refusal, require_cpu_tests_pass

PROJECT = PLUGINS / "deepstack_add"

pytestmark = needs_cmake


@pytest.mark.parametrize("root", ["", "/nowhere"])
def test_missing_tensorrt_is_explained(tmp_path: Path, root: str) -> None:
    message = refusal(PROJECT, tmp_path, f"-DTENSORRT_ROOT={root}")
    for part in (f"TENSORRT_ROOT is '{root}'", "include/NvInferRuntime.h", "TensorRT 10.13 or newer",
                 "-DTENSORRT_ROOT=", "-DWITH_TENSORRT=OFF"):
        assert part in message


def test_index_test_builds_and_passes_without_cuda(tmp_path: Path) -> None:
    require_cpu_tests_pass(PROJECT, tmp_path)
