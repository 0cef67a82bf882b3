"""Decoding against known pixels, preparation against the reference processor to the bit."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers.image_utils import load_image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qwen3vl.errors import CheckpointError, InvalidRequest
from qwen3vl.images import ImageSettings, decode_image, image_grid, resized_size
from qwen3vl.patches import image_patches, normalise, resize
from tests.support.processor_folder import IMAGE_SETTINGS, add_processor_files

ANY_SIZE = 10**9
PUBLISHED = ImageSettings(65536, 16777216, 16, 2, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SMALL = ImageSettings(4096, 65536, 16, 2, 2, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
ODD = ImageSettings(3136, 50176, 14, 3, 2, (0.1, 0.2, 0.3), (0.9, 0.8, 0.7))


def reference(settings):
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},
        patch_size=settings.patch_size, temporal_patch_size=settings.temporal_patch_size,
        merge_size=settings.merge_size, image_mean=list(settings.image_mean), image_std=list(settings.image_std))


def picture(height, width, seed=0):
    """Smooth shapes and noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + generator.integers(-40, 40, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


SIZES = [(1, 1), (1, 200), (200, 1), (3, 599), (16, 16), (31, 33), (32, 32), (48, 80), (64, 64), (100, 60), (240, 321),
         (480, 640), (1000, 7), (333, 1111), (1080, 1920)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", [PUBLISHED, SMALL, ODD], ids=["published", "small", "odd"])
def test_patches_equal_the_reference(size, settings):
    pixels = picture(*size)
    expected = reference(settings)([Image.fromarray(pixels)], return_tensors="np")
    patches = image_patches(Image.fromarray(pixels), settings)
    assert patches.pixels.dtype == np.uint8
    assert [list(patches.grid)] == expected["image_grid_thw"].tolist()
    assert image_grid(*size, settings) == patches.grid
    np.testing.assert_array_equal(normalise(patches.pixels, settings), expected["pixel_values"])


@pytest.mark.parametrize("size", [(250, 320), (320, 250), (320, 320), (250, 321), (64, 250), (1080, 1920)])
@pytest.mark.parametrize("step", [1, 32])
def test_resizing_in_strips_gives_what_one_call_does(size, step, monkeypatch):
    monkeypatch.setattr("qwen3vl.patches.STRIP_PIXELS", 4096)
    monkeypatch.setattr("qwen3vl.patches.os.cpu_count", lambda: 5)
    pixels, target = picture(*size), resized_size(*size, PUBLISHED)
    expected = np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.Resampling.BICUBIC))
    found, places = np.zeros_like(expected), []

    def put(strip, top, left):
        places.append((top, left))
        found[top:top + strip.height, left:left + strip.width] = strip

    resize(Image.fromarray(pixels), target, put, step)
    np.testing.assert_array_equal(found, expected)
    assert len(set(places)) > 1
    assert all(place % step == 0 for top_left in places for place in top_left)


@pytest.mark.parametrize("size", [(1, 200), (64, 250), (250, 320), (320, 250), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("settings", [PUBLISHED, SMALL, ODD], ids=["published", "small", "odd"])
def test_patches_cut_in_strips_are_those_of_one_piece(size, settings, monkeypatch):
    image = Image.fromarray(picture(*size))
    monkeypatch.setattr("qwen3vl.patches.os.cpu_count", lambda: 1)
    whole = image_patches(image, settings)
    monkeypatch.setattr("qwen3vl.patches.STRIP_PIXELS", 1)
    monkeypatch.setattr("qwen3vl.patches.os.cpu_count", lambda: 7)
    strips = image_patches(image, settings)
    assert strips.grid == whole.grid
    np.testing.assert_array_equal(strips.pixels, whole.pixels)


def test_a_large_image_is_shrunk_like_the_reference():
    pixels = picture(1080, 1920)
    settings = ImageSettings(4096, 1280 * 28 * 28, 16, 2, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    expected = reference(settings)([Image.fromarray(pixels)], return_tensors="np")
    patches = image_patches(Image.fromarray(pixels), settings)
    np.testing.assert_array_equal(normalise(patches.pixels, settings), expected["pixel_values"])


@settings(max_examples=300, deadline=None)
@given(height=st.integers(1, 20000), width=st.integers(1, 20000))
def test_grids_of_any_size(height, width):
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(InvalidRequest, match=f"{width}x{height} pixels: one side is more than 200 times the other"):
            resized_size(height, width, PUBLISHED)
        return
    _, h, w = image_grid(height, width, PUBLISHED)
    assert h * w == reference(PUBLISHED).get_number_of_image_patches(height, width)
    assert image_grid(width, height, PUBLISHED) == (1, w, h)


def test_normalise_every_value_of_every_channel():
    values = np.tile(np.arange(256, dtype=np.uint8), (1, 6)).reshape(1, 3 * 2 * 256)
    settings = ImageSettings(1, 1, 16, 2, 2, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    expected = (np.arange(256) / 255 - np.array([[0.1], [0.2], [0.3]])) / np.array([[0.5], [0.6], [0.7]])
    ours = normalise(values, settings).reshape(3, 2, 256)
    np.testing.assert_allclose(ours[:, 0], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ours[:, 0], ours[:, 1])


# -- decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP"])
def test_lossless_formats(kind):
    pixels = (picture(20, 30) // 64 * 64).astype(np.uint8)  # few colours, for GIF
    data = encode(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    decoded = decode_image(data, ANY_SIZE)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(mode):
    pixels = np.asarray(Image.fromarray(picture(32, 48)).resize((48, 32)))
    data = encode(Image.fromarray(pixels).convert(mode), "JPEG", quality=95)
    np.testing.assert_array_equal(decode_image(data, ANY_SIZE), np.asarray(load_image(Image.open(io.BytesIO(data)))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGB"])
def test_modes_equal_the_reference(mode):
    image = Image.fromarray(picture(20, 30))
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(picture(20, 30, seed=1)[..., 0]))
    data = encode(image.convert(mode))
    np.testing.assert_array_equal(decode_image(data, ANY_SIZE), np.asarray(load_image(Image.open(io.BytesIO(data)))))


def test_palette_with_a_transparent_colour():
    image = Image.fromarray(picture(20, 30)).quantize(8)
    data = encode(image, "PNG", transparency=3)
    np.testing.assert_array_equal(decode_image(data, ANY_SIZE), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_not_blended():
    image = Image.fromarray(np.full((4, 4, 4), (200, 100, 50, 0), np.uint8), "RGBA")
    assert decode_image(encode(image), ANY_SIZE)[0, 0].tolist() == [200, 100, 50]


def test_16_bit_greyscale_is_scaled():
    levels = np.array([[0, 255, 256, 257 * 10, 257 * 10 + 128, 257 * 10 + 129, 32768, 65535]], np.uint16)
    decoded = decode_image(encode(Image.fromarray(levels)), ANY_SIZE)
    assert decoded.shape == (1, 8, 3)
    assert decoded[0, :, 0].tolist() == [0, 1, 1, 10, 10, 11, 128, 255]
    assert (decoded[..., :1] == decoded).all()


def test_16_bit_rgb():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = struct.pack(">B6H", 0, 0, 32768, 65535, 257 * 10, 257 * 20, 257 * 30)
    data = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))
    assert decode_image(data, ANY_SIZE).tolist() == [[[0, 128, 255], [10, 20, 30]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(orientation, kind):
    image = Image.fromarray(np.kron(picture(3, 5), np.ones((8, 8, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image, kind, exif=exif)
    stored = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert expected.shape[:2] == ((40, 24) if orientation > 4 else (24, 40))
    np.testing.assert_array_equal(decode_image(data, ANY_SIZE), expected)


def test_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, ANY_SIZE)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["data:image/png;base64,{}", "DATA:;Base64,{}", "data:image/png;charset=x;base64,{}"])
def test_data_urls(form):
    pixels = picture(5, 6)
    url = form.format(base64.b64encode(encode(Image.fromarray(pixels))).decode())
    np.testing.assert_array_equal(decode_image(url.encode(), ANY_SIZE), pixels)


def test_data_urls_with_line_breaks_and_percent_encoding():
    pixels = picture(5, 6)
    body = base64.encodebytes(encode(Image.fromarray(pixels))).decode().replace("=", "%3D").replace("+", "%2B")
    np.testing.assert_array_equal(decode_image(b"data:image/png;base64," + body.encode(), ANY_SIZE), pixels)


@pytest.mark.parametrize(("url", "message"), [
    (b"data:image/png;base64,@@@@", "base64 content is broken"), (b"data:image/png;base64,abc", "content is broken"),
    (b"data:image/png;base64", "without a comma"), (b"data:image/png;base64,", "empty"),
    (b"data:,hello", "not a readable"),
])
def test_broken_data_urls(url, message):
    with pytest.raises(InvalidRequest, match=message):
        decode_image(url, ANY_SIZE)


# -- what is no image


@pytest.mark.parametrize("data", [
    b"not an image", b"\x00" * 1000, b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP", b"<svg/>",
    b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n", b"BM" + b"\xff" * 60])
def test_bytes_that_are_no_image(data):
    with pytest.raises(InvalidRequest, match=r"(not a readable JPEG, PNG, WEBP, GIF, BMP file|broken or truncated)"):
        decode_image(data, ANY_SIZE)


def test_no_bytes():
    with pytest.raises(InvalidRequest, match="0 bytes"):
        decode_image(b"", ANY_SIZE)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA"])
def test_other_formats_are_refused(kind):
    with pytest.raises(InvalidRequest, match="not a readable"):
        decode_image(encode(Image.new("RGB", (16, 16)), kind), ANY_SIZE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_truncated_images(kind):
    data = encode(Image.fromarray(picture(64, 64)), kind)
    with pytest.raises(InvalidRequest, match=r"(broken or truncated|not a readable)"):
        decode_image(data[:len(data) // 2], ANY_SIZE)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]), place=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_changed_byte_gives_an_image_or_a_clear_error(kind, place, byte):
    data = bytearray(encode(Image.fromarray(picture(16, 16)), kind))
    data[int(place * (len(data) - 1))] = byte
    try:
        decoded = decode_image(bytes(data), 10**5)
    except InvalidRequest:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3


def test_size_is_checked_before_decoding():
    """A header that announces 20000 x 20000 pixels without having them: decoding would say that it is truncated."""
    data = encode(Image.new("RGB", (64, 64)), "BMP")
    bomb = data[:18] + struct.pack("<ii", 8000, 8000) + data[26:]
    with pytest.raises(InvalidRequest, match="8000x8000 = 64000000 pixels, the limit image_pixels is 1000000"):
        decode_image(bomb, 1_000_000)


def test_beyond_what_pillow_opens():
    data = encode(Image.new("RGB", (64, 64)), "BMP")
    bomb = data[:18] + struct.pack("<ii", 60000, 60000) + data[26:]
    with pytest.raises(InvalidRequest, match="too large to decode"):
        decode_image(bomb, ANY_SIZE)


def test_the_limit_itself_is_allowed():
    data = encode(Image.new("RGB", (10, 7)))
    assert decode_image(data, 70).shape == (7, 10, 3)
    with pytest.raises(InvalidRequest, match="10x7 = 70 pixels, the limit image_pixels is 69"):
        decode_image(data, 69)


# -- settings


def test_settings_of_a_folder(tmp_path):
    folder = add_processor_files(tmp_path)
    assert ImageSettings.from_checkpoint(folder) == ImageSettings(4096, 65536, 16, 2, 2, (0.5,) * 3, (0.5,) * 3)


def test_settings_as_the_reference_saves_them(tmp_path):
    reference(SMALL).save_pretrained(tmp_path)
    assert ImageSettings.from_checkpoint(tmp_path) == SMALL


def test_min_and_max_pixels_override_size(tmp_path):
    folder = add_processor_files(tmp_path, image={"min_pixels": 1024, "max_pixels": 8192})
    settings = ImageSettings.from_checkpoint(folder)
    assert (settings.min_pixels, settings.max_pixels) == (1024, 8192)


@pytest.mark.parametrize(("change", "message"), [
    ({"patch_size": None}, "patch_size is None, expected a whole number"),
    ({"patch_size": 16.0}, "patch_size is 16.0, expected a whole number"),
    ({"size": {"height": 3}}, "min_pixels is None"), ({"size": None}, "min_pixels is None"),
    ({"size": 224}, "min_pixels is None"), ({"rescale_factor": "x"}, "rescale_factor is 'x', only 1/255"),
    ({"merge_size": 0}, "merge_size is 0"),
    ({"image_mean": 0.5}, "image_mean is 0.5, expected three numbers"),
    ({"image_std": [0.5, 0.5]}, "image_std is .*, expected three numbers"),
    ({"image_std": [0.5, 0.5, 0.0]}, "image_std is .*, expected numbers above 0"),
    ({"resample": 2}, "resample is 2, only"), ({"do_normalize": False}, "do_normalize is False, only True"),
    ({"do_resize": False}, "do_resize is False"), ({"rescale_factor": 1.0}, "rescale_factor is 1.0, only 1/255"),
])
def test_settings_that_cannot_be_followed(tmp_path, change, message):
    add_processor_files(tmp_path, image=change)
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json: {message}"):
        ImageSettings.from_checkpoint(tmp_path)


def test_missing_and_broken_settings(tmp_path):
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json does not exist"):
        ImageSettings.from_checkpoint(tmp_path)
    for content, message in (("{", "cannot be read as JSON"), ("[1]", "holds a JSON list, expected an object")):
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            ImageSettings.from_checkpoint(tmp_path)


def test_settings_of_the_support_folder_are_those_of_the_reference_class():
    """The support folder names the class whose preparation is compared with above."""
    assert IMAGE_SETTINGS["image_processor_type"] + "Pil" == Qwen2VLImageProcessorPil.__name__
