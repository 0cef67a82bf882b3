"""The numerics of quantisation: ranges, zero points, packing, and that the search finds less error."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.quantisation import blocks, slices
from export.quantisation.blocks import dequantise, pack, quantise, quantise_each, round_each


def error(matrix: np.ndarray, bits: int, block: int) -> float:
    """Squared error as a share of the squared values."""
    return float(((dequantise(quantise(matrix, bits, block)) - matrix) ** 2).sum() / (matrix**2).sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 8]), st.floats(-3, 3), st.sampled_from([1e-6, 1.0, 1e5]))
def test_error_of_a_block_is_at_most_half_a_step_of_its_range(seed: int, bits: int, shift: float, size: float):
    """Rounded to the whole range's levels, no value is off by more; fitting the scale and clipping only lower the
    squared error of all together."""
    matrix = size * (np.random.default_rng(seed).standard_normal((3, 128), dtype=np.float32) + np.float32(shift))
    quantised = quantise(matrix, bits, 32)
    assert quantised.codes.max() < 2**bits and quantised.zero_points.max() < 2**bits
    spans = np.maximum(matrix.reshape(3, 4, 32).max(-1), 0) - np.minimum(matrix.reshape(3, 4, 32).min(-1), 0)
    errors = ((dequantise(quantised) - matrix) / size).reshape(3, 4, 32)
    steps = spans / size / (2**bits - 1)
    assert (np.sqrt((errors**2).mean(-1)) <= 0.5001 * steps).all()


def test_search_clips_what_costs_more_than_it_saves():
    matrix = np.random.default_rng(0).standard_normal((256, 512), dtype=np.float32)
    whole_range = dict(blocks.SHARES)
    searched = error(matrix, 4, 128)
    try:
        blocks.SHARES[4] = (1.0,)
        unsearched = error(matrix, 4, 128)
    finally:
        blocks.SHARES.update(whole_range)
    assert searched < 0.95 * unsearched
    assert 10 * np.log10(1 / searched) > 20  # normal values in blocks of 128: more than 20 dB above the error


def test_zeros_and_constants_are_exact():
    assert (dequantise(quantise(np.zeros((2, 64), np.float32), 4, 32)) == 0).all()
    for constant in (0.75, -2.5e-3):
        matrix = np.full((2, 64), constant, np.float32)
        np.testing.assert_allclose(dequantise(quantise(matrix, 4, 32)), matrix, rtol=1e-6)


@pytest.mark.parametrize("bits, ceiling", [(4, 0.012), (8, 4e-5)])
def test_eight_bits_are_much_finer_than_four(bits: int, ceiling: float):
    matrix = np.random.default_rng(1).standard_normal((64, 256), dtype=np.float32)
    assert ceiling / 4 < error(matrix, bits, 128) < ceiling


def test_slices_do_not_show(monkeypatch: pytest.MonkeyPatch):
    matrix = np.random.default_rng(2).standard_normal((50, 64), dtype=np.float32)
    whole = quantise(matrix, 4, 32)
    monkeypatch.setattr(slices, "SLICE_VALUES", 7 * 64)
    sliced = quantise(matrix, 4, 32)
    for name in ("codes", "scales", "zero_points"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(sliced, name))


@pytest.mark.parametrize("bits", [4, 8])
def test_many_matrices_come_in_order_packed_or_rounded(bits: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slices, "SLICE_VALUES", 7 * 96)
    random = np.random.default_rng(3)
    matrices = [random.standard_normal((rows, 96), dtype=np.float32) for rows in (1, 50, 7, 8, 30, 3, 3, 3, 100, 2)]
    asked = []

    def one_by_one() -> Iterator[np.ndarray]:
        for matrix in matrices:
            asked.append(len(matrix))
            yield matrix

    packed = quantise_each(one_by_one(), bits, 32)
    for matrix, rounded in zip(matrices, round_each(matrices, bits, 32), strict=True):
        expected, found = quantise(matrix, bits, 32), next(packed)
        np.testing.assert_array_equal(found.codes, pack(expected.codes, bits))
        np.testing.assert_array_equal(found.scales, expected.scales)
        np.testing.assert_array_equal(found.zero_points, pack(expected.zero_points, bits))
        np.testing.assert_array_equal(rounded, dequantise(expected))
    assert next(packed, None) is None and asked == [len(matrix) for matrix in matrices]


def test_matrices_are_not_read_far_ahead(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slices.os, "sched_getaffinity", lambda _: {0, 1})
    asked = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal asked
        while True:
            asked += 1
            yield np.zeros((4, 32), np.float32)

    found = quantise_each(endless(), 4, 16)
    for _ in range(3):
        next(found)
    found.close()
    assert 3 <= asked <= 3 + slices.AHEAD * 2


def test_packing():
    values = np.array([[1, 2, 3], [15, 0, 7]], np.uint8)
    np.testing.assert_array_equal(pack(values, 4), [[0x21, 0x03], [0x0F, 0x07]])
    np.testing.assert_array_equal(pack(values, 8), values)
