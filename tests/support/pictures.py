"""Encoded pictures and animations for requests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def png(seed: int, height: int = 64, width: int = 64) -> bytes:
    """A picture of coloured blocks, different for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return _encoded([Image.fromarray(blocks.repeat(16, 0).repeat(16, 1))], "PNG")


def gif(seed: int, frames: int = 4, size: int = 64) -> bytes:
    """An animation, half a second a frame."""
    blocks = np.random.default_rng(seed).integers(0, 256, (frames, size // 16, size // 16, 3), dtype=np.uint8)
    pictures = [Image.fromarray(frame.repeat(16, 0).repeat(16, 1)) for frame in blocks]
    return _encoded(pictures, "GIF", save_all=True, append_images=pictures[1:], duration=500, loop=0)


def _encoded(pictures: list[Image.Image], format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pictures[0].save(buffer, format, **options)
    return buffer.getvalue()
