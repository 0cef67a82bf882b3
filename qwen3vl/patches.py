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
from qwen3vl.shared_work import share

# Images are resized and cut by several threads, each a strip of so many pixels at least: less is not worth a thread.
# One strip goes all the way from pixels to patches while a core's cache holds it.
STRIP_PIXELS, MOST_THREADS = 1 << 17, 8
# Bytes -> a type of that size. A patch's row is moved by the largest that fit it, many times quicker than by bytes.
UNITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}

OnStrip = Callable[[Image.Image, int, int], None]


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


def resize(image: Image.Image, size: tuple[int, int], use: OnStrip, step: int = 1) -> None:
    """Resize an image of mode RGB, bicubic with antialiasing, and hand over the result in strips.

    Where one side stays as it is, which sides that are multiples of `factor` do, strips along that side know nothing of
    each other: they are what one call gives, to the bit. Otherwise Pillow takes two passes, in an order of its own.

    Args:
        size: (height, width) to bring it to.
        use: is given each strip, and its top row and left column in the whole; from several threads if that pays.
        step: strips begin at multiples of so many pixels, as `size` has to be.
    """
    height, width = size
    if image.height != height and image.width != width:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    upright = image.height != height  # strips lie side by side

    def strip(begin: int, end: int) -> None:
        part = image.crop((begin, 0, end, image.height) if upright else (0, begin, image.width, end))
        own = (end - begin, height) if upright else (width, end - begin)
        use(part if part.size == own else part.resize(own, Image.Resampling.BICUBIC),
            0 if upright else begin, begin if upright else 0)

    _share(strip, width if upright else height, step, pixels=height * width)


def _share(work: Callable[[int, int], None], length: int, step: int, pixels: int) -> None:
    """Do work on so many pixels from 0 to `length`, in strips that begin at multiples of `step`, by several threads."""
    count = max(1, min(pixels // STRIP_PIXELS, length // step, MOST_THREADS, os.cpu_count() or 1))
    if count == 1:
        work(0, length)
        return
    share(_threads(), lambda begin, end: work(begin * step, end * step), length // step, count)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_THREADS, "image")


def image_patches(image: Image.Image, settings: ImageSettings, *, repeated: bool = True) -> Patches:
    """Resize an image of mode RGB and cut it into patches; it is repeated over the frames of a patch.

    Args:
        repeated: False to leave the repetition to `repeat_frame`: then pixels are uint8 [h*w, 3 * patch_size**2].
    """
    size = resized_size(image.height, image.width, settings)
    time = settings.temporal_patch_size if repeated else 1
    cutting = _Cutting(1, time, *size, settings)

    def cut(strip: Image.Image, top: int, left: int) -> None:
        planes = np.empty((3, strip.height, strip.width), np.uint8)
        for plane, band in zip(planes, strip.split(), strict=True):
            plane[:] = band
        cutting.put(np.broadcast_to(planes, (time, *planes.shape)), top, left)

    resize(image, size, cut, settings.factor)
    return cutting.patches()


def patchify(frames: np.ndarray, settings: ImageSettings) -> Patches:
    """Cut frames of a fitting size into patches.

    Args:
        frames: uint8 [t * temporal_patch_size, h * patch_size, w * patch_size, 3].
    """
    count, height, width, _ = frames.shape
    time = settings.temporal_patch_size
    cutting = _Cutting(count // time, time, height, width, settings)

    def cut(begin: int, end: int) -> None:
        cutting.put(np.ascontiguousarray(frames[:, begin:end].transpose(0, 3, 1, 2)), begin, 0)

    _share(cut, height, settings.factor, pixels=count * height * width)
    return cutting.patches()


def repeat_frame(pixels: np.ndarray, patches: np.ndarray) -> None:
    """Write patches whose frames are equal.

    Args:
        pixels: uint8 [P, 3 * patch_size**2], one frame of each.
        patches: uint8 [P, patch_dim], for the result; both contiguous.
    """
    size = pixels.shape[1] // 3
    unit = UNITS[math.gcd(size, max(UNITS))]
    frames = pixels.reshape(len(pixels), 3, 1, size).view(unit)
    repeated = patches.reshape(len(pixels), 3, -1, size).view(unit)

    def copy(begin: int, end: int) -> None:
        repeated[begin:end] = frames[begin:end]

    _share(copy, len(pixels), 1, pixels=len(pixels) * size)


class _Cutting:
    """Puts together the patches, each of `time` frames, of t * time frames that come in strips."""

    def __init__(self, t: int, time: int, height: int, width: int, settings: ImageSettings) -> None:
        side, merge = settings.patch_size, settings.merge_size
        self._grid, self._settings = (t, height // side, width // side), settings
        unit = np.dtype(UNITS[math.gcd(side, max(UNITS))])
        # Block row and column, row and column in the block, channel, time, pixel row, units of it.
        self._blocks = np.empty((t, height // settings.factor, width // settings.factor, merge, merge, 3, time, side,
                                 side // unit.itemsize), unit)

    def put(self, planes: np.ndarray, top: int, left: int) -> None:
        """Cut a strip of all frames; may be called from several threads.

        Args:
            planes: uint8 [t * time, 3, height, width], contiguous but for the first dimension.
            top, left: its place, multiples of `factor` like its sides.
        """
        t, rows, columns = len(self._blocks), *(side // self._settings.factor for side in planes.shape[2:])
        _, _, _, merge, _, _, time, side, units = self._blocks.shape
        blocks = planes.view(self._blocks.dtype).reshape(t, time, 3, rows, merge, side, columns, merge, units)
        row, column = top // self._settings.factor, left // self._settings.factor
        self._blocks[:, row:row + rows, column:column + columns] = blocks.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)

    def patches(self) -> Patches:
        return Patches(self._blocks.view(np.uint8).reshape(math.prod(self._grid), -1), self._grid)


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
