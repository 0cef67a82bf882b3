"""What the tests of the plugins' CMake projects share."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")


def configure(project: Path, build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", project, "-B", build, "-DCMAKE_CXX_COMPILER=g++", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refusal(project: Path, build: Path, *options: str) -> str:
    """What configuring says as it fails, in one line."""
    run = configure(project, build, *options)
    assert run.returncode != 0
    return " ".join(run.stderr.split())


def require_cpu_tests_pass(project: Path, build: Path) -> None:
    """The project's tests that need no CUDA, one at least, build and pass."""
    run = configure(project, build, "-DWITH_CUDA=OFF")
    assert run.returncode == 0, run.stderr
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    tests = subprocess.run(["ctest", "--test-dir", build], capture_output=True, text=True, check=False)
    passed = re.search(r"100% tests passed, 0 tests failed out of [1-9]", tests.stdout)
    assert tests.returncode == 0 and passed, tests.stdout
