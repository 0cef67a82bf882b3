"""Rows of 8-bit codes: the kernels' order in numpy."""

import numpy as np
import pytest

from plugins.decoder_kernels.int8_rows import dequantise_rows, pack_rows, unpack_rows


def codes_of(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("length", [64, 128, 2048])
def test_each_thread_finds_its_codes_and_unpacking_gives_them_back(length: int) -> None:
    codes = codes_of(length, 3, 5, length)
    packed = pack_rows(codes)
    for k in range(length):
        group, run, thread = k // 64, k % 64 // 32, k % 32 // 8
        np.testing.assert_array_equal(packed[..., 64 * group + 16 * thread + 8 * run + k % 8], codes[..., k])
    np.testing.assert_array_equal(unpack_rows(packed), codes)


@pytest.mark.parametrize("length", [32, 96])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"rows of {length} values cannot be packed: expected a multiple of 64"):
        pack_rows(np.zeros((2, length), np.uint8))


def test_weights_are_scaled_distances_from_the_zero_point() -> None:
    codes, generator = codes_of(1, 4, 256), np.random.default_rng(2)
    scales, zero_points = generator.standard_normal((4, 2)), generator.integers(0, 256, (4, 2))
    expected = [[scales[n, k // 128] * (int(codes[n, k]) - zero_points[n, k // 128]) for k in range(256)]
                for n in range(4)]
    got = dequantise_rows(pack_rows(codes), np.stack([scales, zero_points], -1))
    np.testing.assert_allclose(got, expected, rtol=1e-15)
