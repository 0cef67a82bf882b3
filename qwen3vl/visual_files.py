"""One image or video of a request: opened and measured first, its pixels prepared later, here or on another machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from qwen3vl.config import VisionConfig
from qwen3vl.errors import CheckpointError, InvalidRequest
from qwen3vl.images import ImageSettings, image_grid, open_image, upright_rgb
from qwen3vl.limits import Limits
from qwen3vl.orientation import upright_size
from qwen3vl.patches import Patches, image_patches
from qwen3vl.videos import VideoSettings, decode_video, plan_video, video_patches

IMAGE, VIDEO = "image", "video"


@dataclass(frozen=True)
class VisualSettings:
    """How the images and videos of one checkpoint become patches."""

    images: ImageSettings
    videos: VideoSettings

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path) -> VisualSettings:
        """Read a checkpoint or processor folder.

        Raises:
            CheckpointError: a file is missing or broken, or asks for a preparation other than this project's.
        """
        return cls(ImageSettings.from_checkpoint(checkpoint), VideoSettings.from_checkpoint(checkpoint))

    def check_fit(self, vision: VisionConfig) -> None:
        """Compare with the vision encoder that the patches are for.

        Raises:
            CheckpointError: they do not fit it, or each other.
        """
        for name, expected in (("patch_size", vision.patch_size), ("temporal_patch_size", vision.temporal_patch_size),
                               ("merge_size", vision.spatial_merge_size)):
            for file, settings in (("preprocessor_config.json", self.images),
                                   ("video_preprocessor_config.json", self.videos.image)):
                if getattr(settings, name) != expected:
                    raise CheckpointError(f"{file}: {name} is {getattr(settings, name)}, expected {expected} as in "
                                          "config.json's vision_config")
        images, videos = self.images, self.videos.image
        if (images.image_mean, images.image_std) != (videos.image_mean, videos.image_std):
            raise CheckpointError("video_preprocessor_config.json: image_mean and image_std differ from those of "
                                  "preprocessor_config.json, but the vision encoder normalises both alike")

    def to_dict(self) -> dict:
        return asdict(self)

    def open(self, kind: str, data: bytes, limits: Limits) -> ImageFile | VideoFile:
        """Open a file and check it against the limits; an image's pixels are not decoded yet.

        Args:
            kind: `IMAGE` or `VIDEO`.
            data: the encoded file.

        Raises:
            InvalidRequest: the file is not readable, or beyond a limit.
        """
        if len(data) > limits.image_bytes:
            raise InvalidRequest(f"the file has {len(data)} bytes, the limit image_bytes is {limits.image_bytes}: "
                                 "send a smaller or more compressed one")
        return ImageFile(data, self.images, limits) if kind == IMAGE else VideoFile(data, self.videos, limits)


class ImageFile:
    """An opened image.

    Attributes:
        data: the encoded file.
        tokens: visual tokens that it takes.
    """

    kind = IMAGE

    def __init__(self, data: bytes, settings: ImageSettings, limits: Limits) -> None:
        self.data = data
        self._settings = settings
        self._image = open_image(data, limits.image_pixels)
        # An orientation that swaps the sides does not change the count.
        _, h, w = image_grid(self._image.height, self._image.width, settings)
        self.tokens = h * w // settings.merge_size**2

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) in patches."""
        return image_grid(*upright_size(self._image, self.data), self._settings)

    def patches(self, *, repeated: bool = True) -> Patches:
        """Decode, resize and cut.

        Args:
            repeated: as in `image_patches`.

        Raises:
            InvalidRequest: the file is broken.
        """
        grid = self.grid  # before decoding, as always: what Pillow finds of an orientation may depend on the order
        return _kept(self.kind, grid, image_patches(upright_rgb(self._image), self._settings, repeated=repeated))


class VideoFile:
    """An opened video.

    Attributes:
        data: the encoded file.
        grid: (t, h, w) in patches.
        tokens: visual tokens that each of its t frames takes.
        timestamps: seconds from the start, for each of them.
    """

    kind = VIDEO

    def __init__(self, data: bytes, settings: VideoSettings, limits: Limits) -> None:
        self.data = data
        self._settings = settings
        self._plan = plan_video(data, settings, limits)
        self.grid, self.timestamps = self._plan.grid, self._plan.timestamps
        self.tokens = self.grid[1] * self.grid[2] // settings.image.merge_size**2

    def patches(self, *, repeated: bool = True) -> Patches:
        """Decode, resize and cut; nothing is repeated in any case. Errors as in `ImageFile.patches`."""
        return _kept(self.kind, self.grid, video_patches(decode_video(self._plan), self._settings))


def _kept(kind: str, grid: tuple[int, int, int], patches: Patches) -> Patches:
    """Positions are computed before pixels are, maybe on another machine, so a file must keep to its measures."""
    if patches.grid != grid:
        raise InvalidRequest(f"the {kind} has {patches.grid} patches (frames, rows, columns), but its header promised "
                             f"{grid}: save it anew")
    return patches
