"""Limits are read from JSON values and checked."""

import pytest

from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits


def test_round_trip():
    limits = Limits(image_bytes=1000, images=2, queue=3)
    assert Limits.from_dict(limits.to_dict()) == limits


def test_what_is_not_given_keeps_its_default():
    assert Limits.from_dict({"images": 3}) == Limits(images=3)


@pytest.mark.parametrize("value", [0, -1, 1.5, "7", True, None])
def test_values_that_are_no_limit(value):
    with pytest.raises(ArtifactError, match=r"limit video_frames is .*, expected a whole number above 0"):
        Limits.from_dict({"video_frames": value})


def test_an_unknown_name_gets_the_list_of_known_ones():
    with pytest.raises(ArtifactError, match=r"unknown limit image_size: the limits are image_bytes, image_pixels, .*"):
        Limits.from_dict({"image_size": 3})


def test_a_prompt_must_leave_room_for_an_answer():
    with pytest.raises(ArtifactError, match="prompt_tokens is 64, expected less than total_tokens = 64"):
        Limits(prompt_tokens=64, total_tokens=64)
    assert Limits(prompt_tokens=63, total_tokens=64).prompt_tokens == 63
