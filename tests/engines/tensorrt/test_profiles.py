"""Optimisation profiles cover what the limits allow, and calls are cut so that a profile takes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.tensorrt.profiles import (
    Profile,
    Range,
    choose_profile,
    derive_profiles,
    frames_per_call,
    input_shapes,
    profile_table,
)
from engines.vision_frames import CALL_PATCHES
from qwen3vl.config import VisionConfig
from qwen3vl.errors import ArtifactError

VISION = VisionConfig(depth=27, hidden_size=1152, num_heads=16, intermediate_size=4304, out_hidden_size=2048,
                      patch_size=16, temporal_patch_size=2, spatial_merge_size=2, num_position_embeddings=2304,
                      in_channels=3, deepstack_visual_indexes=(8, 16, 24), rope_theta=10000.0)


def test_large_images_alone_and_small_frames_together():
    assert derive_profiles(VISION, 16_777_216, 16) == (
        Profile(Range(1, 1, 1), Range(4, 8192, 65536)),
        Profile(Range(1, 4, 4), Range(4, 2048, 4096)),
        Profile(Range(1, 16, 16), Range(4, 512, 1024)))


def test_one_profile_is_enough_where_the_largest_image_is_small():
    assert derive_profiles(VISION, 256 * 256, 16) == (Profile(Range(1, 16, 16), Range(4, 256, 256)),)


@given(st.integers(1024, 50_000_000), st.integers(1, 40), st.integers(1, 50_000), st.integers(1, 100))
def test_every_frame_within_the_limits_is_taken_in_calls_of_bounded_size(pixels: int, max_frames: int, units: int,
                                                                         count: int):
    profiles, patches = derive_profiles(VISION, pixels, max_frames), 4 * units
    step = frames_per_call(profiles, patches)
    assert (step > 0) == (patches * 256 <= pixels)
    assert step <= max_frames
    if step:
        assert step == 1 or step * patches <= CALL_PATCHES
        frames = min(step, count)
        chosen = profiles[choose_profile(profiles, frames, patches)]
        assert chosen.takes(frames, patches)
        assert all(chosen.frames.max <= other.frames.max for other in profiles if other.takes(frames, patches))
    assert choose_profile(profiles, step + 1, patches) is None
    for profile in profiles:
        for size in (profile.frames, profile.patches):
            assert size.min <= size.opt <= size.max


def test_shapes_of_the_inputs():
    shapes = Profile(Range(1, 2, 3), Range(4, 8, 12)).shapes(VISION)
    assert shapes == {"patches": ((1, 4, 1536), (2, 8, 1536), (3, 12, 1536)),
                      "patch_positions": ((4, 2), (8, 2), (12, 2)),
                      "interp_indices": ((4, 4), (8, 4), (12, 4)), "interp_weights": ((4, 4), (8, 4), (12, 4))}
    assert input_shapes(VISION, 3, 12) == {name: most for name, (_, _, most) in shapes.items()}


def test_the_table_shows_sizes_and_memory():
    profiles = derive_profiles(VISION, 16_777_216, 4)
    lines = profile_table(profiles, 16, (2 * 2**30, 2**20)).splitlines()
    assert lines[1].split() == ["0", "1", "4", "to", "65536", "16.78", "Mpixel", "2,048", "MiB"]
    assert lines[2].split() == ["1", "1", "to", "4", "4", "to", "4096", "1.05", "Mpixel", "1", "MiB"]
    assert "MiB" not in profile_table(profiles, 16)


@pytest.mark.parametrize(("pixels", "frames", "message"), [
    (1023, 1, "max_image_pixels is 1023, expected at least 1024"), (1024, 0, "max_frames is 0, expected at least 1")])
def test_limits_that_allow_nothing_are_refused(pixels: int, frames: int, message: str):
    with pytest.raises(ArtifactError, match=message):
        derive_profiles(VISION, pixels, frames)
