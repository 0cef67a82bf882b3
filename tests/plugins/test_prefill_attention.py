"""Prefill attention's device code on a CPU, with emulated instructions: native/prefill_attention_test.cpp."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.plugins.cmake_projects import PLUGINS

NATIVE = Path(__file__).parent / "native"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="CUDA's headers come with nvcc, which is not installed")
def test_attention_is_right_with_emulated_instructions(tmp_path: Path) -> None:
    program = tmp_path / "prefill_attention"
    # The emulated instructions come first: they have the names of plugins/hopper's headers.
    folders = [NATIVE / "emulation", PLUGINS / "decoder_kernels/csrc", PLUGINS / "hopper"]
    subprocess.run(["nvcc", "-std=c++17", "-O2", "-Xcompiler",
                    "-fno-strict-aliasing,-Wall,-Werror,-Wno-unknown-pragmas",
                    *(f"-I{folder}" for folder in folders), NATIVE / "prefill_attention_test.cpp", "-o", program],
                   check=True)
    run = subprocess.run([program], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0 and run.stdout.count("tokens after") == 4, run.stdout + run.stderr
