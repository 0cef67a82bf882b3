"""RGB pixels -> patches of the vision encoder.

The preparation is that of the reference processor (`Qwen2VLImageProcessor`, Pillow backend) up to its normalisation,
which is affine and belongs to the vision encoder's graph. Bicubic resizing rounds to 8 bits anyway, so patches stay
uint8: nothing is lost, and a quarter of the bytes travel.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from qwen3vl.images import ImageSettings, resized_size

# Images are resized and cut by several threads, each a strip of so many pixels at least: less is not worth a thread.
STRIP_PIXELS, MOST_THREADS = 1 << 17, 8
# Bytes -> a type of that size. A patch's row is moved by the largest that fit it, many times quicker than by bytes.
UNITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


@dataclass(frozen=True)
class Patches:
    """One image or video as the vision encoder takes it.

    Attributes:
        pixels: uint8 [t*h*w, patch_dim]; frames one after the other, the patches of a frame in merge-block order, each
            patch laid out [channel, time, row, column].
        grid: (t, h, w) in patches.
    """

    pixels: np.ndarray
    grid: tuple[int, int, int]


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bicubic, with antialiasing, to (height, width).

    Where one side stays as it is, which sides that are multiples of `factor` do, strips along that side know nothing of
    each other: threads give what one call would, to the bit. Otherwise Pillow takes two passes, in an order of its own.
    """
    height, width = size
    wide = image.width == width  # strips lie side by side
    count = _strips(width * height)
    if count == 1 or not (wide or image.height == height):
        return image.resize((width, height), Image.Resampling.BICUBIC)
    target = Image.new("RGB", (width, height))

    def paste(begin: int, end: int) -> None:
        strip = image.crop((begin, 0, end, image.height) if wide else (0, begin, image.width, end))
        own = (end - begin, height) if wide else (width, end - begin)
        target.paste(strip.resize(own, Image.Resampling.BICUBIC), (begin, 0) if wide else (0, begin))

    _share(paste, width if wide else height, count)
    return target


def _strips(pixels: int) -> int:
    """How many threads share the work on so many pixels."""
    return max(1, min(pixels // STRIP_PIXELS, MOST_THREADS, os.cpu_count() or 1))


def _share(work: Callable[[int, int], None], length: int, count: int) -> None:
    """Do work from 0 to `length` in so many strips, each from its begin to its end by a thread of its own."""
    if count == 1:
        work(0, length)
        return
    edges = np.linspace(0, length, count + 1).astype(int).tolist()
    list(_threads().map(work, edges, edges[1:]))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_THREADS, "image")


def image_patches(image: Image.Image, settings: ImageSettings) -> Patches:
    """Resize an image of mode RGB and cut it into patches; it is repeated over the frames of a patch."""
    resized = resize(image, resized_size(image.height, image.width, settings))
    planes = np.empty((3, resized.height, resized.width), np.uint8)
    for plane, band in zip(planes, resized.split(), strict=True):
        plane[:] = band
    return _cut(np.broadcast_to(planes, (settings.temporal_patch_size, *planes.shape)), settings)


def patchify(frames: np.ndarray, settings: ImageSettings) -> Patches:
    """Cut frames of a fitting size into patches.

    Args:
        frames: uint8 [t * temporal_patch_size, h * patch_size, w * patch_size, 3].
    """
    return _cut(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)), settings)


def _cut(planes: np.ndarray, settings: ImageSettings) -> Patches:
    """uint8 [F, 3, height, width], contiguous but for the first dimension, to patches."""
    count, _, height, width = planes.shape
    time, side, merge = settings.temporal_patch_size, settings.patch_size, settings.merge_size
    t, h, w = count // time, height // side, width // side
    unit = UNITS[math.gcd(side, max(UNITS))]
    blocks = planes.view(unit).reshape(t, time, 3, h // merge, merge, side, w // merge, merge, -1)
    # -> t, block row, block column, row in block, column in block, channel, time, pixel row, units of it
    ordered = blocks.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    patches = np.empty(ordered.shape, ordered.dtype)

    def copy(begin: int, end: int) -> None:
        patches[:, begin:end] = ordered[:, begin:end]

    _share(copy, h // merge, _strips(height * width))
    return Patches(patches.view(np.uint8).reshape(t * h * w, settings.patch_dim), (t, h, w))


def normalise(pixels: np.ndarray, settings: ImageSettings) -> np.ndarray:
    """What the vision encoder computes with: (pixels / 255 - mean) / std of each channel.

    Args:
        pixels: uint8 [P, patch_dim].

    Returns:
        float32 [P, patch_dim], the reference processor's `pixel_values` to the bit.
    """
    scale = (np.arange(256) / 255).astype(np.float32)[:, None]
    table = (scale - np.float32(settings.image_mean)) / np.float32(settings.image_std)
    channels = pixels.reshape(len(pixels), 3, -1)
    return np.stack([table[channels[:, c], c] for c in range(3)], axis=1).reshape(pixels.shape)
