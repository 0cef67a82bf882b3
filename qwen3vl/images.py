"""Images: encoded bytes -> RGB pixels, and the settings and sizes of what `qwen3vl.patches` makes of them."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from qwen3vl.data_urls import data_url_bytes, is_data_url
from qwen3vl.errors import CheckpointError, InvalidRequest
from qwen3vl.json_files import read_preprocessor

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_ASPECT_RATIO = 200


@dataclass(frozen=True)
class ImageSettings:
    """How pixels become patches (`preprocessor_config.json`).

    Attributes:
        min_pixels, max_pixels: bounds of the size after resizing, in pixels (the file calls them `size.shortest_edge`
            and `size.longest_edge`). For videos they bound all frames together.
        patch_size, temporal_patch_size: side and number of frames of a patch.
        merge_size: side of the square of patches that makes one visual token.
        image_mean, image_std: normalisation of each channel, on the scale 0 to 1.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    @property
    def factor(self) -> int:
        """Side of a visual token in pixels; prepared images' sides are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        return 3 * self.temporal_patch_size * self.patch_size**2

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path) -> ImageSettings:
        """Read `preprocessor_config.json` of a checkpoint or processor folder.

        Raises:
            CheckpointError: the file is missing or broken, or asks for a preparation other than this module's.
        """
        return cls.from_values(*read_preprocessor(Path(checkpoint), "preprocessor_config.json", "image_processor"))

    @classmethod
    def from_values(cls, values: dict, where: str) -> ImageSettings:
        """Check the settings that image and video preprocessors share; `where` they are from is for errors."""
        size = values["size"] if isinstance(values.get("size"), dict) else {}
        bounds = {"min_pixels": values.get("min_pixels") or size.get("shortest_edge"),
                  "max_pixels": values.get("max_pixels") or size.get("longest_edge")}
        numbers = {**bounds, **{name: values.get(name) for name in ("patch_size", "temporal_patch_size", "merge_size")}}
        for name, number in numbers.items():
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise CheckpointError(f"{where}: {name} is {number!r}, expected a whole number above 0")
        for name, expected in (("resample", Image.Resampling.BICUBIC), ("do_resize", True), ("do_rescale", True),
                               ("do_normalize", True)):
            if values.get(name, expected) != expected:
                raise CheckpointError(f"{where}: {name} is {values[name]!r}, only {expected!r} is supported")
        scale = values.get("rescale_factor", 1 / 255)
        if not isinstance(scale, (int, float)) or not math.isclose(scale, 1 / 255, rel_tol=1e-6):
            raise CheckpointError(f"{where}: rescale_factor is {scale!r}, only 1/255 is supported")
        channels = {name: _channels(values, name, where) for name in ("image_mean", "image_std")}
        if min(channels["image_std"]) <= 0:
            raise CheckpointError(f"{where}: image_std is {values['image_std']!r}, expected numbers above 0")
        return cls(**numbers, **channels)


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """Decode an image file (JPEG, PNG, WebP, GIF's first frame, BMP) or a `data:` URL of one.

    The EXIF orientation is applied. Like in the reference, an alpha channel is dropped, not blended; unlike there,
    16-bit greyscale is scaled to 8 bit instead of clipped.

    Returns:
        uint8 [height, width, 3].

    Raises:
        InvalidRequest: not an image of these formats, broken, or larger than `max_pixels`, which is checked before
            decoding.
    """
    return to_rgb(open_image(data, max_pixels))


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Read an image's header and check its size; nothing is decoded yet. Errors as in `decode_image`."""
    if is_data_url(data):
        data = data_url_bytes(data, "the image")
    if not data:
        raise InvalidRequest("the image is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InvalidRequest(f"the image is too large to decode: {error}; send a smaller one") from None
    # Decoders meet hostile bytes here and raise nearly anything: every failure is the request's, none the server's.
    except Exception:
        raise InvalidRequest(f"the image ({len(data)} bytes, starting with {bytes(data[:8])!r}) is not a readable "
                             f"{', '.join(FORMATS)} file") from None
    check_pixels(image, max_pixels)
    return image


def check_pixels(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise InvalidRequest(f"the image is {image.width}x{image.height} = {image.width * image.height} pixels, the "
                             f"limit image_pixels is {max_pixels}: send a smaller one")


def to_rgb(image: Image.Image) -> np.ndarray:
    """As `upright_rgb`, as an array: uint8 [height, width, 3]."""
    return np.asarray(upright_rgb(image))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode the current frame of an opened image, upright, in mode RGB; it may be `image` itself.

    Raises:
        InvalidRequest: the file is truncated or broken.
    """
    try:
        image.load()
        upright = ImageOps.exif_transpose(image) if image.getexif() else image
        if upright.mode.startswith(("I", "F")):
            return Image.fromarray(_grey_to_rgb(np.asarray(upright)))
        return upright if upright.mode == "RGB" else upright.convert("RGB")
    except Exception as error:  # as in `open_image`
        raise InvalidRequest(f"the {image.format} image of {image.width}x{image.height} pixels is broken or truncated: "
                             f"{error}") from None


def resized_size(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """The size an image is brought to: multiples of `factor` within the bounds, of about the same aspect ratio.

    Raises:
        InvalidRequest: one side is more than 200 times the other.
    """
    check_aspect_ratio(height, width)
    factor = settings.factor
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > settings.max_pixels:
        shrink = math.sqrt(height * width / settings.max_pixels)
        return (max(factor, math.floor(height / shrink / factor) * factor),
                max(factor, math.floor(width / shrink / factor) * factor))
    if rows * columns < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rows, columns


def image_grid(height: int, width: int, settings: ImageSettings) -> tuple[int, int, int]:
    """(1, h, w) in patches. Swapping the sides, as an EXIF orientation may, swaps h and w. Errors as `resized_size`."""
    rows, columns = resized_size(height, width, settings)
    return 1, rows // settings.patch_size, columns // settings.patch_size


def check_aspect_ratio(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise InvalidRequest(f"the image is {width}x{height} pixels: one side is more than {MAX_ASPECT_RATIO} times "
                             "the other; crop it")


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    """16-bit greyscale [h, w] -> uint8 [h, w, 3]: 65535 is white."""
    levels = (np.clip(grey, 0, 65535).astype(np.uint32) * 255 + 32767) // 65535
    return np.repeat(levels.astype(np.uint8)[:, :, None], 3, axis=2)


def _channels(values: dict, name: str, where: str) -> tuple[float, float, float]:
    channels = values.get(name)
    if not isinstance(channels, list) or len(channels) != 3 or not all(isinstance(c, (int, float)) for c in channels):
        raise CheckpointError(f"{where}: {name} is {channels!r}, expected three numbers, one for each channel")
    return tuple(float(c) for c in channels)
