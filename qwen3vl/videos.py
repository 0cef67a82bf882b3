"""Videos: animated GIF, WebP or PNG bytes -> sampled frames with timestamps -> patches of the vision encoder.

Sampling, sizes and timestamps are those of the reference (`Qwen3VLVideoProcessor`). Frames are resized by Pillow, like
images; the reference leaves that to torchvision. A still image is a video of one frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from qwen3vl.errors import CheckpointError, InvalidRequest
from qwen3vl.images import ImageSettings, check_aspect_ratio, check_pixels, open_image, upright_rgb
from qwen3vl.json_files import read_preprocessor
from qwen3vl.limits import Limits
from qwen3vl.patches import Patches, patchify, resize

# What browsers show a frame for that names no duration.
DEFAULT_DURATION_MS = 100


@dataclass(frozen=True)
class VideoSettings:
    """`video_preprocessor_config.json`: how videos become patches.

    Attributes:
        image: sizes and normalisation; `min_pixels` and `max_pixels` bound all frames together.
        fps: sampled frames per second.
        min_frames, max_frames: bounds of the number of sampled frames; there are never more than the file has.
        frame_tokens: bound of one frame's visual tokens (`max_video_tokens` where `cap_pixels_per_frame` is set), or
            None for no such bound.
    """

    image: ImageSettings
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    frame_tokens: int | None = None

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path) -> VideoSettings:
        """Read `video_preprocessor_config.json` of a checkpoint or processor folder.

        Raises:
            CheckpointError: the file is missing or broken, or asks for a preparation other than this module's.
        """
        values, where = read_preprocessor(Path(checkpoint), "video_preprocessor_config.json", "video_processor")
        image = ImageSettings.from_values(values, where)
        if values.get("num_frames") is not None or values.get("do_sample_frames", True) is not True:
            raise CheckpointError(f"{where}: num_frames is {values.get('num_frames')!r} and do_sample_frames "
                                  f"{values.get('do_sample_frames')!r}, only sampling by fps is supported")
        settings = cls(image, *(values.get(name) or default for name, default in
                                (("fps", 2.0), ("min_frames", 4), ("max_frames", 768))),
                       frame_tokens=values.get("max_video_tokens", 768) if values.get("cap_pixels_per_frame") else None)
        for name in ("fps", "min_frames", "max_frames"):
            value = getattr(settings, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
                raise CheckpointError(f"{where}: {name} is {value!r}, expected a number above 0")
        return settings


@dataclass(frozen=True)
class VideoPlan:
    """What of an opened video will be decoded.

    Attributes:
        file: the opened file.
        indices: the sampled frames, increasing.
        size: (height, width) each is resized to.
        timestamps: seconds from the start, the middle of each temporal patch.
        grid: (t, h, w) in patches.
    """

    file: Image.Image
    indices: tuple[int, ...]
    size: tuple[int, int]
    timestamps: tuple[float, ...]
    grid: tuple[int, int, int]


def plan_video(data: bytes, settings: VideoSettings, limits: Limits) -> VideoPlan:
    """Open a video (or a `data:` URL of one) and choose its frames.

    Args:
        limits: `image_pixels`, `video_frames` and `video_pixels` are checked before anything is decoded.

    Raises:
        InvalidRequest: not a readable animation or image, broken, or beyond a limit.
    """
    file = open_image(data, limits.image_pixels)
    count = _frame_count(file)
    _check_limits(file, count, limits)
    # An animated PNG may hold a still picture for viewers that cannot play it: not part of the animation.
    first = 1 if getattr(file, "default_image", False) and count > 1 else 0
    fps = _frames_per_second(file, range(first, count), limits)
    chosen = sample_frames(count - first, fps, settings)
    _seek(file, first)
    upright = upright_rgb(file)  # which the header's sides need not be
    size = resized_size(len(chosen), upright.height, upright.width, settings)
    timestamps = patch_timestamps(chosen, fps, settings.image.temporal_patch_size)
    grid = (len(timestamps), size[0] // settings.image.patch_size, size[1] // settings.image.patch_size)
    return VideoPlan(file, tuple(first + i for i in chosen), size, timestamps, grid)


def decode_video(plan: VideoPlan) -> np.ndarray:
    """The chosen frames, resized: uint8 [frames, height, width, 3]. At no time are more of the others held than one.

    Raises:
        InvalidRequest: a frame is broken.
    """
    frames = np.empty((len(plan.indices), *plan.size, 3), dtype=np.uint8)
    for frame, index in zip(frames, plan.indices, strict=True):
        _seek(plan.file, index)

        def put(strip: Image.Image, top: int, left: int, frame: np.ndarray = frame) -> None:
            frame[top:top + strip.height, left:left + strip.width] = strip

        resize(upright_rgb(plan.file), plan.size, put)
    return frames


def video_patches(frames: np.ndarray, settings: VideoSettings) -> Patches:
    """Cut frames into patches; the last one is repeated to fill the last temporal patch.

    Args:
        frames: uint8 [frames, height, width, 3] of a size that `resized_size` gives.
    """
    missing = -len(frames) % settings.image.temporal_patch_size
    return patchify(np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)]), settings.image)


def sample_frames(count: int, fps: float, settings: VideoSettings) -> list[int]:
    """Frames at `settings.fps`, spread evenly from the first to the last of `count`, which play at `fps`."""
    wanted = int(count / fps * settings.fps)
    wanted = min(max(wanted, settings.min_frames), settings.max_frames, count)
    return np.linspace(0, count - 1, int(wanted)).round().astype(int).tolist()


def patch_timestamps(indices: list[int], fps: float, temporal_patch_size: int) -> tuple[float, ...]:
    """Seconds of each temporal patch: the mean of its first and its last frame's."""
    missing = -len(indices) % temporal_patch_size
    seconds = [index / fps for index in [*indices, *indices[-1:] * missing]]
    firsts, lasts = seconds[::temporal_patch_size], seconds[temporal_patch_size - 1::temporal_patch_size]
    return tuple((first + last) / 2 for first, last in zip(firsts, lasts, strict=True))


def resized_size(frames: int, height: int, width: int, settings: VideoSettings) -> tuple[int, int]:
    """The size frames are brought to, which depends on how many there are.

    Raises:
        InvalidRequest: one side is more than 200 times the other.
    """
    image, factor = settings.image, settings.image.factor
    frames = max(frames, image.temporal_patch_size)  # fewer are filled up by repeating the last
    max_pixels = image.max_pixels
    if settings.frame_tokens is not None:
        share = min(settings.frame_tokens * factor**2, max_pixels // frames)
        max_pixels = max(share, int(image.min_pixels * 1.05)) * frames
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    check_aspect_ratio(height, width)
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    time = round(frames / image.temporal_patch_size) * image.temporal_patch_size
    if time * rows * columns > max_pixels:
        shrink = math.sqrt(frames * height * width / max_pixels)
        return (max(factor, math.floor(height / shrink / factor) * factor),
                max(factor, math.floor(width / shrink / factor) * factor))
    if time * rows * columns < image.min_pixels:
        grow = math.sqrt(image.min_pixels / (frames * height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rows, columns


def _frame_count(file: Image.Image) -> int:
    """Counting reads through the whole file, so it may find it broken."""
    try:
        return getattr(file, "n_frames", 1)
    except Exception as error:  # as in `_seek`
        raise InvalidRequest(f"the {file.format} video is broken: {error}") from None


def _check_limits(file: Image.Image, count: int, limits: Limits) -> None:
    if count > limits.video_frames:
        raise InvalidRequest(f"the video has {count} frames, the limit video_frames is {limits.video_frames}: send a "
                             "shorter one or fewer frames a second")
    _check_video_pixels(file, count, count * file.width * file.height, limits)


def _check_video_pixels(file: Image.Image, count: int, pixels: int, limits: Limits) -> None:
    if pixels > limits.video_pixels:
        raise InvalidRequest(f"the video is {count} frames of {file.width}x{file.height}, {pixels} pixels in all, the "
                             f"limit video_pixels is {limits.video_pixels}: send a smaller or shorter one")


def _frames_per_second(file: Image.Image, frames: range, limits: Limits) -> float:
    """The mean rate; only decoding tells the durations."""
    total = pixels = 0
    for index in frames:
        _seek(file, index)
        # A GIF's canvas may grow on the way.
        check_pixels(file, limits.image_pixels)
        pixels += file.width * file.height
        _check_video_pixels(file, len(frames), pixels, limits)
        upright_rgb(file)
        total += file.info.get("duration") or DEFAULT_DURATION_MS
    return len(frames) * 1000 / total


def _seek(file: Image.Image, index: int) -> None:
    try:
        file.seek(index)
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        raise InvalidRequest(f"frame {index} of the {file.format} video is broken: {error}") from None
