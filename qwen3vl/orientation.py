"""How an image lies, told from its header: decoding is left to whoever needs the pixels."""

from __future__ import annotations

import struct

from PIL import ExifTags, Image

# EXIF orientations that swap the sides.
SIDEWAYS = (5, 6, 7, 8)
# What may hold an orientation in a PNG: an eXIf chunk, or text of these names (Pillow reads all of them).
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK_HEADER = struct.Struct(">I4s")
PNG_CHECKSUM_SIZE = 4
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PNG_ORIENTATION_KEYS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


def upright_size(image: Image.Image, data: bytes) -> tuple[int, int]:
    """(height, width) that `images.upright_rgb` will have, by the header alone wherever that tells.

    An orientation that cannot be read counts as upright, as it does in decoding.

    Args:
        image: an opened image.
        data: the file it is from.
    """
    sides = image.height, image.width
    try:
        if image.format == "PNG" and has_late_orientation(data):
            image.load()
        # Not the method of PNG images, which decodes first to be sure that there is no more to come.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # decoders raise nearly anything on hostile bytes
        return sides
    return sides[::-1] if orientation in SIDEWAYS else sides


def has_late_orientation(png: bytes) -> bool:
    """Whether metadata that may hold an orientation follow the pixels of a PNG."""
    position, pixels = len(PNG_SIGNATURE), False
    while position + PNG_CHUNK_HEADER.size <= len(png):
        size, kind = PNG_CHUNK_HEADER.unpack_from(png, position)
        position += PNG_CHUNK_HEADER.size
        if pixels and (kind == b"eXIf" or (kind in PNG_TEXTS and png.startswith(PNG_ORIENTATION_KEYS, position))):
            return True
        pixels |= kind == b"IDAT"
        position += size + PNG_CHECKSUM_SIZE
    return False
