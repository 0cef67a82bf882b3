"""Rounding weights to integers, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from export.quantisation.slices import Arrays, in_slices

# Shares of a block's range that are tried. Clipping its extremes makes all other steps finer; at 8 bits nothing is won.
SHARES = {4: (1.0, 0.92, 0.84, 0.76), 8: (1.0,)}
# Goes up when the same weights come out differently.
RECIPE = 1


@dataclass(frozen=True)
class Blocks:
    """A quantised matrix of N rows of K values in blocks of b: `weight = (codes - zero_points) * scales`.

    Attributes:
        codes: uint8 [N, K], one value each, not packed.
        scales: float32 [N, K / b].
        zero_points: uint8 [N, K / b].
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray


def quantise(matrix: np.ndarray, bits: int, block: int) -> Blocks:
    """Choose each block's codes, scale and zero point for the smallest squared error found.

    For each share of the block's range, values are rounded to `2^bits` levels between its ends; the scale is then
    fitted to those codes by least squares, which leaves the error `|x|^2 - (x . d)^2 / |d|^2` for centred codes d.
    The share with the smallest error counts. (Clipping by squared error, as AWQ and others do; it needs weights only.)

    Args:
        matrix: [N, K] of any floating type, K a multiple of `block`.
        bits: 4 or 8.

    Raises:
        ValueError: a value is not finite.
    """
    return Blocks(*next(in_slices([matrix], lambda rows: _quantise_rows(rows, bits, block))))


def quantise_each(matrices: Iterable[np.ndarray], bits: int, block: int) -> Iterator[Blocks]:
    """`quantise` of one matrix after the other, their codes and zero points packed: uint8 [N, packed K or K / b]."""
    def packed(rows: np.ndarray) -> Arrays:
        codes, scales, zero_points = _quantise_rows(rows, bits, block)
        return pack(codes, bits), scales, pack(zero_points, bits)

    for arrays in in_slices(matrices, packed):
        yield Blocks(*arrays)


def round_each(matrices: Iterable[np.ndarray], bits: int, block: int) -> Iterator[np.ndarray]:
    """`dequantise(quantise(matrix))` of one matrix after the other."""
    def rounded(rows: np.ndarray) -> Arrays:
        return (dequantise(Blocks(*_quantise_rows(rows, bits, block))),)

    for matrix, in in_slices(matrices, rounded):
        yield matrix


def dequantise(blocks: Blocks) -> np.ndarray:
    """The matrix that the integers stand for, float32 [N, K]."""
    rows, count = blocks.scales.shape
    codes = blocks.codes.reshape(rows, count, -1).astype(np.float32)
    return ((codes - blocks.zero_points[..., None]) * blocks.scales[..., None]).reshape(rows, -1)


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of the last axis as bytes, the first in the lowest bits; zeros fill an incomplete last byte."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return values[..., ::2] | values[..., 1::2] << 4


def _quantise_rows(matrix: np.ndarray, bits: int, block: int) -> Arrays:
    """Codes, scales and zero points, as in `Blocks`."""
    rows, length = matrix.shape
    x = matrix.astype(np.float32).reshape(rows, length // block, block)
    best = None
    for centred, zero_points in _candidates(x, bits):
        product, norm = _dot(x, centred), _dot(centred, centred)
        scales = np.divide(product, norm, out=np.zeros_like(norm), where=norm > 0)
        explained = product * scales
        if best is None:
            best = [explained, centred, scales, zero_points]
        else:
            better = explained > best[0]
            for kept, new in zip(best, (explained, centred, scales, zero_points), strict=True):
                kept[better] = new[better]
    _, centred, scales, zero_points = best
    codes = (centred + zero_points[..., None]).astype(np.uint8)
    return codes.reshape(rows, length), scales, zero_points.astype(np.uint8)


def _candidates(x: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Centred codes (code - zero point) float32 [N, B, b] and zero points float32 [N, B] of each share."""
    levels = np.float32(2**bits - 1)
    low, high = np.minimum(x.min(axis=-1), 0), np.maximum(x.max(axis=-1), 0)
    span = high - low
    if not np.isfinite(span).all():
        raise ValueError("the matrix holds values that are not finite")
    for share in SHARES[bits]:
        inverse = np.divide(levels, span * np.float32(share), out=np.zeros_like(span), where=span > 0)
        zero_points = np.rint(low * np.float32(-share) * inverse)
        centred = x * inverse[..., None]
        np.rint(centred, out=centred)
        np.clip(centred, -zero_points[..., None], levels - zero_points[..., None], out=centred)
        yield centred, zero_points


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nbk,nbk->nb", a, b)
