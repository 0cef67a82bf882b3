"""The C++ index arithmetic of the kernel, compiled for the CPU, against the numpy reference."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.deepstack_add.operator import row_index

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/plugins/native/row_index_test.cpp"
EXTREMES = [-(2**31), -(2**31) + 1, -1, 0, 1, 151935, 151936, 151939, 2**31 - 2, 2**31 - 1]


def compile_source(target: Path, *options: str) -> Path:
    subprocess.run(["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
                    "-fno-sanitize-recover", "-I", ROOT / "plugins/deepstack_add/csrc", *options, SOURCE, "-o", target],
                   check=True)
    return target


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_source(tmp_path_factory.mktemp("native") / "row_index.so", "-shared", "-fPIC")))


def test_program_agrees_with_wider_arithmetic(tmp_path: Path) -> None:
    run = subprocess.run([compile_source(tmp_path / "row_index_test")], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "cases agree" in run.stdout


int32 = st.sampled_from(EXTREMES) | st.integers(-(2**31), 2**31 - 1)


@settings(deadline=None, max_examples=300)
@given(ids=st.lists(int32, min_size=1, max_size=20), level=st.integers(0, 8) | st.just(2**31 - 1),
       vocab_size=st.sampled_from([1, 100, 151936, 2**31 - 1]), row_count=st.integers(0, 2**31))
def test_agrees_with_the_reference(library: ctypes.CDLL, ids: list[int], level: int, vocab_size: int,
                                   row_count: int) -> None:
    token_ids, rows = np.array(ids, dtype=np.int32), np.full(len(ids), -7, dtype=np.int64)
    library.row_indices(token_ids.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(ids)), ctypes.c_int32(level),
                        ctypes.c_int32(vocab_size), ctypes.c_int64(row_count), rows.ctypes.data_as(ctypes.c_void_p))
    expected = row_index(token_ids, level=level, vocab_size=vocab_size, row_count=row_count)
    np.testing.assert_array_equal(rows, expected)
