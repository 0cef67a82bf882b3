"""Rows of 4-bit codes: the kernels' order in numpy, and what the kernels' index arithmetic finds in it."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.decoder_kernels.int4_rows import dequantise_rows, pack_rows, unpack_rows

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/plugins/native/int4_order_test.cpp"
LENGTHS = (32, 64, 96, 128, 256, 768)


def codes_of(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, shape, np.uint8)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("native") / "int4_order.so"
    subprocess.run(["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
                    "-fno-sanitize-recover", "-I", ROOT / "plugins/decoder_kernels/csrc", "-shared", "-fPIC", SOURCE,
                    "-o", target], check=True)
    return ctypes.CDLL(str(target))


@pytest.mark.parametrize("length", LENGTHS)
def test_unpacking_gives_back_what_was_packed(length: int) -> None:
    codes = codes_of(length, 3, 5, length)
    packed = pack_rows(codes)
    assert packed.shape == (3, 5, length // 2) and packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack_rows(packed), codes)
    np.testing.assert_array_equal(pack_rows(codes[1, 2]), packed[1, 2])  # a row stays a row


@pytest.mark.parametrize("length", [16, 48, 160, 192])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"rows of {length} values cannot be packed: expected a multiple of 128"):
        pack_rows(np.zeros((2, length), np.uint8))


def test_weights_are_scaled_distances_from_the_zero_point() -> None:
    codes, generator = codes_of(1, 4, 256), np.random.default_rng(2)
    scales, zero_points = generator.standard_normal((4, 4)), generator.integers(0, 16, (4, 4))
    expected = [[scales[n, k // 64] * (int(codes[n, k]) - zero_points[n, k // 64]) for k in range(256)]
                for n in range(4)]
    got = dequantise_rows(pack_rows(codes), np.stack([scales, zero_points], -1))
    np.testing.assert_allclose(got, expected, rtol=1e-15)


# (first_k, count): of the kernels' warps, whose parts of 768 values begin in the middle of a group.
@settings(deadline=None, max_examples=200)
@given(part=st.sampled_from([(2048, 7 * 256, 256), (4096, 512, 512), *((768, 192 * i, 192) for i in range(4))]),
       q=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_a_lane_of_a_kernel_finds_its_codes(library: ctypes.CDLL, part: tuple[int, int, int], q: int,
                                            seed: int) -> None:
    length, first, count = part
    codes = codes_of(seed, length)
    packed = pack_rows(codes)
    own = codes[first : first + count].reshape(-1, 4, 8)[:, q].ravel()  # 8 q to 8 q + 7 of each 32
    found = np.zeros(len(own), np.uint16)
    where = packed.ctypes.data_as(ctypes.c_void_p), first, count, q, found.ctypes.data_as(ctypes.c_void_p)
    library.read_bfloat16(*where)
    np.testing.assert_array_equal((found.astype(np.uint32) << 16).view(np.float32), 128 + own.astype(np.float32))
    library.read_float16(*where)
    np.testing.assert_array_equal(found.view(np.float16), 64 + own.astype(np.float16))


@pytest.mark.parametrize(("slice_", "block", "expected"), [
    (256, 128, 128), (256, 32, 32), (512, 128, 128), (192, 128, 64), (192, 64, 64), (192, 32, 32)])
def test_what_a_warp_sums_lies_in_one_block(library: ctypes.CDLL, slice_: int, block: int, expected: int) -> None:
    assert library.segment_of(slice_, block) == expected
    for first in range(0, 4 * slice_, slice_):
        for start in range(first, first + slice_, expected):
            assert start // block == (start + expected - 1) // block
