"""Weight rows of 4-bit codes as the kernels read them; csrc/int4_order.h is the other side of it.

A weight is `scale * (code - zero point)`; scale and zero point belong to a block of neighbouring values of a row. A row
stays a row, but the codes within each group of 128 change places, so that what one thread multiplies lies together:

    bytes 16 q + 4 w to 16 q + 4 w + 3 of a group: what thread q, q = 0 to 3, multiplies of run w of 32 values, w = 0
    to 3: values 32 w + 8 q to 32 w + 8 q + 7, of which the four bytes have, from the lowest bits on, the first, third,
    fifth and seventh, then the second, fourth, sixth and eighth.

Rows shorter than 128 are one group of r = 1 to 3 runs, thread q's bytes beginning with 4 r q.
"""

from __future__ import annotations

import numpy as np

GROUP = 128
RUN = 32


def runs_of(length: int) -> int:
    """Runs of a group in rows of so many values.

    Raises:
        ValueError: that is neither a multiple of 128 nor 32, 64 or 96.
    """
    group = min(GROUP, length)
    if length % RUN or length % group:
        raise ValueError(f"rows of {length} values cannot be packed: expected a multiple of {GROUP}, or of {RUN} below")
    return group // RUN


def pack_rows(codes: np.ndarray) -> np.ndarray:
    """Codes, one a byte, in the kernels' order: uint8 [..., K] to uint8 [..., K / 2].

    Raises:
        ValueError: as `runs_of`.
    """
    runs = runs_of(codes.shape[-1])
    groups = codes.reshape(*codes.shape[:-1], -1, runs, 4, 4, 2)  # group, run, thread, pair of values, one of the pair
    nibbles = np.moveaxis(groups, (-3, -1), (-4, -2)).reshape(*codes.shape[:-1], -1, 2)
    return nibbles[..., 0] | nibbles[..., 1] << 4


def unpack_rows(packed: np.ndarray) -> np.ndarray:
    """What `pack_rows` was given: uint8 [..., K / 2] to uint8 [..., K]."""
    length = 2 * packed.shape[-1]
    nibbles = np.stack([packed & 15, packed >> 4], -1)
    groups = nibbles.reshape(*packed.shape[:-1], -1, 4, runs_of(length), 2, 4)  # group, thread, run, one of 2, pair
    return np.moveaxis(groups, (-3, -1), (-4, -2)).reshape(*packed.shape[:-1], length)


def dequantise_rows(packed: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The weights, float64 [..., K].

    Args:
        packed: uint8 [..., K / 2], what `pack_rows` gives.
        blocks: float [..., K / b, 2]: scale and zero point of each block.
    """
    return scale_codes(unpack_rows(packed), blocks)


def scale_codes(codes: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """`scale * (code - zero point)` of uint8 [..., K] in blocks [..., K / b, 2], float64 [..., K]."""
    scales, zero_points = np.moveaxis(blocks.astype(np.float64)[..., None], -2, 0)
    return (scales * (codes.reshape(*blocks.shape[:-1], -1) - zero_points)).reshape(codes.shape)
