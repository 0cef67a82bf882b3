"""Pictures and clips as encoded files, the form in which requests bring them."""

from __future__ import annotations

import io
from random import Random

import numpy as np
from PIL import Image


def picture_file(rng: Random, pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] -> a BMP file, a quarter of the time JPEG."""
    data = io.BytesIO()
    if rng.random() < 0.25:
        Image.fromarray(pixels).save(data, "JPEG", quality=rng.randint(60, 95))
    else:
        Image.fromarray(pixels).save(data, "BMP")
    return data.getvalue()


def clip_file(frames: np.ndarray, fps: int) -> bytes:
    """uint8 [n, height, width, 3] -> an animated GIF."""
    palette = Image.fromarray(frames.reshape(-1, *frames.shape[2:])).quantize(64, Image.Quantize.FASTOCTREE)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    for picture in pictures[1::2]:  # the writer would merge equal frames
        picture.putpixel((0, 0), (picture.getpixel((0, 0)) + 1) % 64)
    data = io.BytesIO()
    pictures[0].save(data, "GIF", save_all=True, append_images=pictures[1:], duration=1000 // fps, loop=0,
                     optimize=False)
    return data.getvalue()
