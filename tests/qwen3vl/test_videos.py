"""Video decoding against known frames; sampling, sizes, timestamps and patches against the reference."""

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize
from transformers.video_utils import VideoMetadata

from qwen3vl.errors import CheckpointError, InvalidRequest
from qwen3vl.images import ImageSettings
from qwen3vl.limits import Limits
from qwen3vl.patches import normalise
from qwen3vl.videos import (
    VideoSettings,
    decode_video,
    patch_timestamps,
    plan_video,
    resized_size,
    sample_frames,
    video_patches,
)
from tests.support.processor_folder import VIDEO_SETTINGS, add_processor_files
from tests.support.reference_processor import reference_video_processor

IMAGE = ImageSettings(4096, 131072, 16, 2, 2, (0.5,) * 3, (0.5,) * 3)
SETTINGS = VideoSettings(IMAGE)
LIMITS = Limits()
ANIMATED = ["GIF", "WEBP", "PNG"]


def frame(i, height=64, width=96):
    """A frame that tells its number: plain colours, exact in every format here."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = 8 * i
    pixels[: height // 2, : width // 2, 1] = 255 - 8 * i
    return Image.fromarray(pixels)


def encode(frames, kind="GIF", duration=100, **options):
    file = io.BytesIO()
    options |= {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=duration, **options)
    return file.getvalue()


# -- decoding


@pytest.mark.parametrize("kind", ANIMATED)
@pytest.mark.parametrize("duration", [50, 100, 500])
def test_chosen_frames_and_times(kind, duration):
    frames = [frame(i) for i in range(12)]
    plan = plan_video(encode(frames, kind, duration), SETTINGS, LIMITS)
    expected = sample_frames(12, 1000 / duration, SETTINGS)
    assert plan.indices == tuple(expected)
    assert plan.timestamps == patch_timestamps(expected, 1000 / duration, 2)
    assert plan.size == (64, 96)
    assert plan.grid == (len(expected) // 2, 4, 6)
    decoded = decode_video(plan)
    assert decoded.dtype == np.uint8
    for pixels, index in zip(decoded, expected, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(frames[index]))


def test_frames_that_change_a_part_of_the_picture():
    """GIF and PNG store what changed only; later frames are drawn on earlier ones."""
    frames = [np.full((64, 64, 3), 40, np.uint8) for _ in range(8)]
    for i, pixels in enumerate(frames):
        pixels[8 * i:8 * i + 8, 8:16] = (200, 30 * i, 10)
    for kind in ANIMATED:
        decoded = decode_video(plan_video(encode(list(map(Image.fromarray, frames)), kind, 500), SETTINGS, LIMITS))
        np.testing.assert_array_equal(decoded, frames)


def test_frames_are_resized_like_images():
    frames = [frame(i, 200, 300) for i in range(4)]
    settings = VideoSettings(ImageSettings(4096, 32768, 16, 2, 2, (0.5,) * 3, (0.5,) * 3))
    plan = plan_video(encode(frames, "PNG", 1000), settings, LIMITS)
    assert plan.size == resized_size(4, 200, 300, settings) == (64, 96)
    decoded = decode_video(plan)
    for pixels, original in zip(decoded, frames, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(original.resize((96, 64), Image.Resampling.BICUBIC)))


def test_uneven_durations_give_the_mean_rate():
    durations = [20, 20, 20, 20, 20, 20, 20, 20, 20, 1820]  # 10 frames in 2 s
    plan = plan_video(encode([frame(i) for i in range(10)], "GIF", durations), SETTINGS, LIMITS)
    assert plan.indices == tuple(sample_frames(10, 5.0, SETTINGS))


@pytest.mark.parametrize("kind", ANIMATED)
def test_frames_without_duration_last_a_tenth_of_a_second(kind):
    plan = plan_video(encode([frame(i) for i in range(20)], kind, 0), SETTINGS, LIMITS)
    assert plan.indices == tuple(sample_frames(20, 10.0, SETTINGS))


def test_a_still_picture_for_old_viewers_is_no_frame():
    frames = [frame(i) for i in range(5)]
    plan = plan_video(encode(frames, "PNG", 500, default_image=True), SETTINGS, LIMITS)
    np.testing.assert_array_equal(decode_video(plan), [np.asarray(image) for image in frames[1:]])
    assert plan.timestamps == (0.25, 1.25)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_a_still_image_is_one_frame_twice(kind):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (255, 0, 0)).save(file, kind)
    plan = plan_video(file.getvalue(), SETTINGS, LIMITS)
    assert (plan.indices, plan.timestamps, plan.grid) == ((0,), (0.0,), (1, 4, 4))
    patches = video_patches(decode_video(plan), SETTINGS)
    assert patches.grid == plan.grid
    first, second = np.moveaxis(patches.pixels.reshape(16, 3, 2, 256), 2, 0)
    np.testing.assert_array_equal(first, second)


def test_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    plan = plan_video(encode([frame(i) for i in range(3)], "WEBP", 500, exif=exif), SETTINGS, LIMITS)
    assert plan.size == (96, 64)
    np.testing.assert_array_equal(decode_video(plan)[1], np.rot90(np.asarray(frame(1)), -1))


def test_data_url():
    data = encode([frame(i) for i in range(4)])
    url = b"data:image/gif;base64," + base64.b64encode(data)
    np.testing.assert_array_equal(decode_video(plan_video(url, SETTINGS, LIMITS)),
                                  decode_video(plan_video(data, SETTINGS, LIMITS)))


# -- limits and broken files


def test_limits_are_checked_before_decoding():
    data = encode([frame(i) for i in range(12)])
    for limits, message in ((Limits(video_frames=11), "has 12 frames, the limit video_frames is 11"),
                            (Limits(image_pixels=6143), "96x64 = 6144 pixels, the limit image_pixels is 6143"),
                            (Limits(video_pixels=73727), "12 frames of 96x64, 73728 pixels in all, the limit")):
        with pytest.raises(InvalidRequest, match=message):
            plan_video(data[:-20], SETTINGS, limits)  # truncated: decoding would say so
    plan_video(data, SETTINGS, Limits(video_frames=12, image_pixels=6144, video_pixels=73728))


def test_a_canvas_that_grows():
    """A later frame of a GIF may exceed the announced size, and the limit with it."""
    def body(data):
        """Without header and palette."""
        return data[13 + 3 * 2 ** ((data[10] & 7) + 1):]

    small, large = encode([frame(1, 32, 32)]), encode([frame(2, 64, 96)])
    data = small[:-1] + body(large)
    assert plan_video(data, SETTINGS, Limits(image_pixels=6144)).indices == (0, 1)
    with pytest.raises(InvalidRequest, match="96x64 = 6144 pixels, the limit image_pixels is 6143"):
        plan_video(data, SETTINGS, Limits(image_pixels=6143))
    with pytest.raises(InvalidRequest, match="7168 pixels in all, the limit video_pixels is 7167"):
        plan_video(data, SETTINGS, Limits(video_pixels=7167))


@pytest.mark.parametrize("kind", ANIMATED)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_videos(kind, part):
    generator = np.random.default_rng(0)
    frames = [Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(6)]
    data = encode(frames, kind)
    try:
        plan = plan_video(data[:int(len(data) * part)], SETTINGS, LIMITS)
    except InvalidRequest:
        return
    assert kind == "GIF"  # ends with any whole frame
    assert plan.indices[-1] < 5


@pytest.mark.filterwarnings("ignore:Invalid APNG")
@settings(max_examples=100, deadline=None)
@example(kind="GIF", changes=[(0.75, 228)])  # found in counting the frames
@given(kind=st.sampled_from(ANIMATED), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3))
def test_changed_bytes_give_a_video_or_a_clear_error(kind, changes):
    data = bytearray(encode([frame(i, 16, 16) for i in range(3)], kind))
    for place, byte in changes:
        data[int(place * (len(data) - 1))] = byte
    limits = Limits(image_pixels=10**5, video_pixels=10**6)
    try:
        plan = plan_video(bytes(data), SETTINGS, limits)
        frames = decode_video(plan)
    except InvalidRequest:
        return
    assert frames.shape == (len(plan.indices), *plan.size, 3)


def test_wide_videos():
    with pytest.raises(InvalidRequest, match="more than 200 times"):
        plan_video(encode([frame(i, 32, 6432) for i in range(3)]), SETTINGS, LIMITS)


# -- against the reference


@settings(max_examples=300, deadline=None)
@given(count=st.integers(1, 3000), fps=st.floats(0.01, 240), wanted=st.sampled_from([0.5, 1, 2, 3.7, 24]),
       bounds=st.sampled_from([(4, 768), (1, 8), (10, 16)]))
def test_sampling(count, fps, wanted, bounds):
    reference = reference_video_processor({"fps": wanted, "min_frames": bounds[0], "max_frames": bounds[1]})
    expected = reference.sample_frames(VideoMetadata(total_num_frames=count, fps=fps))
    assert sample_frames(count, fps, VideoSettings(IMAGE, wanted, *bounds)) == expected.tolist()


@settings(max_examples=300, deadline=None)
@given(indices=st.lists(st.integers(0, 5000), min_size=1, max_size=40).map(sorted), fps=st.floats(0.01, 240),
       merge=st.sampled_from([1, 2, 3]))
def test_timestamps(indices, fps, merge):
    expected = Qwen3VLProcessor._calculate_timestamps(None, list(indices), fps, merge)
    assert patch_timestamps(indices, fps, merge) == tuple(expected)


@settings(max_examples=300, deadline=None)
@given(frames=st.integers(2, 768), height=st.integers(1, 3000), width=st.integers(1, 3000),
       bounds=st.sampled_from([(4096, 25165824), (4096, 131072), (131072, 786432)]))
@example(3, 192, 192, (4096, 131072))  # counts as 4 frames: too large only so
@example(5, 160, 192, (4096, 131072))  # counts as 4 frames too
def test_sizes(frames, height, width, bounds):
    settings = VideoSettings(ImageSettings(*bounds, 16, 2, 2, (0.5,) * 3, (0.5,) * 3))
    try:
        expected = smart_resize(frames, height, width, 2, 32, *bounds)
    except ValueError:
        with pytest.raises(InvalidRequest, match="more than 200 times"):
            resized_size(frames, height, width, settings)
        return
    assert resized_size(frames, height, width, settings) == expected


@pytest.mark.parametrize("cap", [True, False])
@pytest.mark.parametrize("shape", [(4, 40, 40), (5, 64, 96), (7, 200, 300), (16, 480, 640)])
def test_patches(shape, cap, tmp_path):
    """Pixels differ by what Pillow's and torch's bicubic rounding do."""
    values = {**VIDEO_SETTINGS, "cap_pixels_per_frame": cap, "max_video_tokens": 12}
    add_processor_files(tmp_path, video=values)
    settings = VideoSettings.from_checkpoint(tmp_path)
    count, height, width = shape
    smooth = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    frames = [Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC) for pixels in smooth]
    reference = reference_video_processor(values)(
        [np.stack([np.asarray(image).transpose(2, 0, 1) for image in frames])],
        video_metadata=[VideoMetadata(total_num_frames=count, fps=1.0)], return_tensors="pt")
    plan = plan_video(encode(frames, "PNG", 1000), settings, LIMITS)
    patches = video_patches(decode_video(plan), settings)
    assert [list(patches.grid)] == reference["video_grid_thw"].tolist()
    difference = np.abs(normalise(patches.pixels, settings.image) - reference["pixel_values_videos"].numpy()) * 127.5
    assert difference.max() < 2.01
    assert difference.mean() < 0.3


def test_patch_layout():
    """Without resizing, equal to the reference."""
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), dtype=np.uint8)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].contiguous()
    expected, *grid = reference_video_processor({}).patchify(tensor, 16, 2, 2)
    patches = video_patches(frames, SETTINGS)
    assert list(patches.grid) == grid
    np.testing.assert_array_equal(patches.pixels, expected[0].numpy())


# -- settings


def test_settings_of_a_folder(tmp_path):
    add_processor_files(tmp_path)
    assert VideoSettings.from_checkpoint(tmp_path) == VideoSettings(IMAGE, 2.0, 4, 768, None)
    add_processor_files(tmp_path, video={"fps": 4, "min_frames": 2, "max_frames": 16, "cap_pixels_per_frame": True})
    assert VideoSettings.from_checkpoint(tmp_path) == VideoSettings(IMAGE, 4, 2, 16, 768)


def test_settings_as_the_reference_saves_them(tmp_path):
    reference_video_processor(VIDEO_SETTINGS).save_pretrained(tmp_path)
    assert VideoSettings.from_checkpoint(tmp_path) == SETTINGS


@pytest.mark.parametrize(("change", "message"), [
    ({"fps": -1}, "fps is -1, expected a number above 0"), ({"fps": "2"}, "fps is '2', expected a number"),
    ({"max_frames": True}, "max_frames is True"), ({"num_frames": 8}, "num_frames is 8 .* only sampling by fps"),
    ({"do_sample_frames": False}, "do_sample_frames False, only sampling by fps"), ({"size": {}}, "min_pixels is None"),
])
def test_settings_that_cannot_be_followed(tmp_path, change, message):
    add_processor_files(tmp_path, video=change)
    with pytest.raises(CheckpointError, match=f"video_preprocessor_config.json: .*{message}"):
        VideoSettings.from_checkpoint(tmp_path)
