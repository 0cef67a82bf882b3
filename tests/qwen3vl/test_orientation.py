"""Orientation by the header: what it says is what decoding gives."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from qwen3vl.images import open_image, to_rgb
from qwen3vl.orientation import PNG_SIGNATURE, has_late_orientation, upright_size

HEIGHT, WIDTH = 24, 40
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(buffer, kind, **options)
    return buffer.getvalue()


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def with_chunk(png: bytes, kind: bytes, body: bytes, before: bytes) -> bytes:
    """Insert a chunk before the first chunk of a kind."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    position = png.index(before) - 4
    return png[:position] + chunk + png[position:]


def chunk_of(form: str, orientation: int) -> tuple[bytes, bytes]:
    """The ways in which Pillow finds an orientation in a PNG."""
    exif = exif_of(orientation)
    bare = exif.removeprefix(b"Exif\0\0")
    raw = b"\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"
    return {
        "eXIf": (b"eXIf", bare),
        "text": (b"tEXt", b"Raw profile type exif\0" + raw),
        "compressed text": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % orientation),
    }[form]


def assert_right(data: bytes, height: int, width: int) -> None:
    assert upright_size(open_image(data, 10**6), data) == (height, width)
    assert to_rgb(open_image(data, 10**6)).shape[:2] == (height, width)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_in_the_header(kind: str, orientation: int) -> None:
    data = encoded(kind, exif=exif_of(orientation))
    assert_right(data, *((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_no_orientation(kind: str) -> None:
    assert_right(encoded(kind), HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_orientation_in_xmp(kind: str) -> None:
    assert_right(encoded(kind, xmp=XMP % 6), WIDTH, HEIGHT)


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("form", ["eXIf", "text", "compressed text", "XMP"])
def test_chunk_before_or_behind_the_pixels_of_a_png(form: str, before: bytes) -> None:
    data = with_chunk(encoded("PNG"), *chunk_of(form, 6), before)
    assert_right(data, WIDTH, HEIGHT)
    assert has_late_orientation(data) == (before == b"IEND")


def test_the_later_of_two_orientations_counts() -> None:
    data = with_chunk(encoded("PNG", exif=exif_of(6)), *chunk_of("eXIf", 1), b"IEND")
    assert_right(data, HEIGHT, WIDTH)


def test_other_text_behind_the_pixels_decodes_nothing() -> None:
    data = with_chunk(encoded("PNG"), b"tEXt", b"date:create\x002026-11-24", b"IEND")
    assert not has_late_orientation(data)
    image = open_image(data, 10**6)
    assert upright_size(image, data) == (HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"closed|already"):
        # Nothing has been read of it yet, so cutting the file off behind the header shows.
        image.fp.close()
        image.load()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_counts_as_upright_in_both(kind: str) -> None:
    assert_right(encoded(kind, exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense"), HEIGHT, WIDTH)


def test_truncated_png_with_late_metadata_is_measured_all_the_same() -> None:
    data = with_chunk(encoded("PNG"), *chunk_of("eXIf", 6), b"IEND")
    position = data.index(b"IDAT") + 6
    broken = data[:position] + bytes(4) + data[position + 4:]
    assert upright_size(open_image(broken, 10**6), broken) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("tail", [b"", b"\0", b"\xff" * 7, b"\0\0\0\x05IDA", b"\xff\xff\xff\xffIDAT"])
def test_chunks_that_end_anywhere(tail: bytes) -> None:
    assert not has_late_orientation(PNG_SIGNATURE + tail)
