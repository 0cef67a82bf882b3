"""Weight rows of 8-bit codes as the kernels read them; csrc/int8_rows.cuh is the other side of it.

A weight is `scale * (code - zero point)`, as of 4 bits (int4_rows.py). A row stays a row, but the codes within each
group of 64 change places, so that what one thread multiplies lies together:

    bytes 16 q + 8 w to 16 q + 8 w + 7 of a group: what thread q, q = 0 to 3, multiplies of run w of 32 values, w = 0
    or 1: values 32 w + 8 q to 32 w + 8 q + 7.
"""

from __future__ import annotations

import numpy as np

from plugins.decoder_kernels.int4_rows import scale_codes

GROUP = 64


def pack_rows(codes: np.ndarray) -> np.ndarray:
    """Codes in the kernels' order: uint8 [..., K] both.

    Raises:
        ValueError: rows are not of a multiple of 64 values.
    """
    if codes.shape[-1] % GROUP:
        raise ValueError(f"rows of {codes.shape[-1]} values cannot be packed: expected a multiple of {GROUP}")
    return _exchanged(codes, 2, 4)


def unpack_rows(packed: np.ndarray) -> np.ndarray:
    """What `pack_rows` was given: uint8 [..., K] both."""
    return _exchanged(packed, 4, 2)


def dequantise_rows(packed: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The weights, float64 [..., K].

    Args:
        packed: uint8 [..., K], what `pack_rows` gives.
        blocks: float [..., K / b, 2]: scale and zero point of each block.
    """
    return scale_codes(unpack_rows(packed), blocks)


def _exchanged(codes: np.ndarray, first: int, second: int) -> np.ndarray:
    groups = codes.reshape(*codes.shape[:-1], -1, first, second, 8)
    return np.ascontiguousarray(np.moveaxis(groups, -2, -3)).reshape(codes.shape)
