"""What one request may ask for, and how many may wait: configured in one place, checked before work is done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from qwen3vl.errors import ArtifactError

LIMITS_FILE = "limits.json"  # in the build folder of a composed deployment


@dataclass(frozen=True)
class Limits:
    """Limits of a deployment; each is a number above 0.

    Attributes:
        image_bytes: size of one encoded image or video file, in bytes.
        image_pixels: width x height of one image or video frame, before any resizing.
        images: images in one request.
        videos: videos in one request.
        video_frames: frames in one video file, before any sampling.
        video_pixels: width x height x frames of one video file: all of them have to be decoded.
        prompt_tokens: prompt length, visual tokens included.
        total_tokens: prompt and answer together: the length of a key-value cache slot.
        queue: requests that may wait for a free slot.
    """

    image_bytes: int = 20 * 1024 * 1024
    image_pixels: int = 64 * 1024 * 1024
    images: int = 16
    videos: int = 4
    video_frames: int = 1024
    video_pixels: int = 512 * 1024 * 1024
    prompt_tokens: int = 16384
    total_tokens: int = 20480
    queue: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ArtifactError(f"limit {field.name} is {value!r}, expected a whole number above 0")
        if self.prompt_tokens >= self.total_tokens:
            raise ArtifactError(f"limit prompt_tokens is {self.prompt_tokens}, expected less than total_tokens = "
                                f"{self.total_tokens}, so that room for an answer is left")

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Limits:
        """Read limits from JSON values; those not given keep their defaults.

        Raises:
            ArtifactError: a name is unknown or a value is not a whole number above 0.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ArtifactError(f"unknown limit {', '.join(unknown)}: the limits are {', '.join(known)}")
        return cls(**values)

    @classmethod
    def load(cls, path: Path) -> Limits:
        """Read the `LIMITS_FILE` of a build folder.

        Raises:
            ArtifactError: it is missing, not JSON, or names or values are wrong.
        """
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise ArtifactError(f"{path} does not exist: run `qwen3vl compose {path.parent}`") from None
        except ValueError as error:
            raise ArtifactError(f"{path} is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise ArtifactError(f"{path} holds a {type(values).__name__}, expected an object of limits")
        try:
            return cls.from_dict(values)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None


def default_prompt_tokens(total_tokens: int) -> int:
    """What a prompt may take of a sequence where nothing else is said: an answer needs room."""
    return total_tokens * 4 // 5
