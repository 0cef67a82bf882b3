"""Optimisation profiles of the vision encoder: which frames one call can take, derived from a deployment's limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.vision_frames import CALL_PATCHES
from qwen3vl.config import VisionConfig
from qwen3vl.errors import ArtifactError

MAX_FRAMES = 16
# Each profile takes this many times the frames of the one before, and as many times smaller ones.
FRAMES_STEP = 4


@dataclass(frozen=True)
class Range:
    """A dynamic size: its least and largest value, and the one to optimise for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class Profile:
    """Sizes of one call: `frames` of equal size with `patches` patches each."""

    frames: Range
    patches: Range

    def takes(self, frames: int, patches: int) -> bool:
        return (self.frames.min <= frames <= self.frames.max
                and self.patches.min <= patches <= self.patches.max)

    def shapes(self, vision: VisionConfig) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Least, preferred and largest shape of each of the engine's inputs."""
        sizes = [(getattr(self.frames, kind), getattr(self.patches, kind)) for kind in ("min", "opt", "max")]
        by_size = [input_shapes(vision, frames, patches) for frames, patches in sizes]
        return {name: tuple(shapes[name] for shapes in by_size) for name in by_size[0]}


def input_shapes(vision: VisionConfig, frames: int, patches: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the engine's inputs in a call of `frames` frames with `patches` patches each."""
    return {"patches": (frames, patches, vision.patch_dim), "patch_positions": (patches, 2),
            "interp_indices": (patches, 4), "interp_weights": (patches, 4)}


def derive_profiles(vision: VisionConfig, max_image_pixels: int, max_frames: int = MAX_FRAMES) -> tuple[Profile, ...]:
    """Profiles for one large image up to many small frames.

    The first takes a single frame of any size up to the largest image. Each further one takes four times the frames,
    as large as `CALL_PATCHES` patches a call allow, up to `max_frames`; one that the next makes needless is left out.
    The smallest frame is one visual token everywhere: frames of long videos are that small.

    Args:
        max_image_pixels: area of the largest image after preparation.
        max_frames: frames in one call.

    Raises:
        ArtifactError: a limit is too small for any image.
    """
    unit, patch_pixels = vision.merge_unit, vision.patch_size**2
    largest = max_image_pixels // (unit * patch_pixels) * unit
    if largest < unit:
        raise ArtifactError(f"max_image_pixels is {max_image_pixels}, expected at least {unit * patch_pixels}, the "
                            "area of one visual token")
    if max_frames < 1:
        raise ArtifactError(f"max_frames is {max_frames}, expected at least 1")
    profiles, frames = [], 1
    while True:
        share = max(unit, CALL_PATCHES // frames // unit * unit)
        most = largest if frames == 1 else min(largest, share)
        usual = max(unit, min(most, share // 2 // unit * unit))
        if profiles and profiles[-1].patches.max == most:  # the new one takes all that the last one does
            profiles.pop()
        profiles.append(Profile(Range(1, frames, frames), Range(unit, usual, most)))
        if frames >= max_frames:
            return tuple(profiles)
        frames = min(max_frames, frames * FRAMES_STEP)


def choose_profile(profiles: Sequence[Profile], frames: int, patches: int) -> int | None:
    """The index of the profile made for the fewest frames that takes this call; None if no profile does."""
    fitting = [index for index, profile in enumerate(profiles) if profile.takes(frames, patches)]
    return min(fitting, key=lambda index: profiles[index].frames.max, default=None)


def frames_per_call(profiles: Sequence[Profile], patches: int) -> int:
    """The most frames with that many patches that one call takes; 0 if no profile takes even one."""
    return max((profile.frames.max for profile in profiles if profile.takes(1, patches)), default=0)


def profile_table(profiles: Sequence[Profile], patch_size: int, activation_bytes: Sequence[int] = ()) -> str:
    """Profiles as a text table: frames, size of a frame, and the GPU memory of the largest call where it is known."""
    lines = ["profile  frames   patches a frame  largest frame" + ("  memory of a call" if activation_bytes else "")]
    for index, profile in enumerate(profiles):
        patches, most = profile.patches, profile.frames.max
        frames, span = f"1 to {most}" if most > 1 else "1", f"{patches.min} to {patches.max}"
        memory = f"  {activation_bytes[index] / 2**20:,.0f} MiB" if activation_bytes else ""
        lines.append(f"{index:<7}  {frames:<7}  {span:<15}  {patches.max * patch_size**2 / 1e6:6.2f} Mpixel{memory}")
    return "\n".join(lines)
