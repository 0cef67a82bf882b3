"""Positions equal the reference's exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3VLMoeModel
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from qwen3vl.errors import InvalidRequest
from qwen3vl.positions import interpolation, mrope_positions, vision_positions
from tests.support.checkpoints import make_config

GRIDS = [(2, 2), (2, 400), (400, 2), (4, 6), (16, 16), (48, 48), (50, 48), (68, 120), (34, 2)]
TEXT, IMAGE, VIDEO = 0, 1, 2


@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_vision_positions(h, w):
    expected = get_vision_position_ids(torch.tensor([[1, h, w]]), 2)
    ours = vision_positions(h, w, 2)
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, expected.numpy())


def test_vision_positions_in_larger_merge_blocks():
    expected = get_vision_position_ids(torch.tensor([[1, 6, 9]]), 3)
    np.testing.assert_array_equal(vision_positions(6, 9, 3), expected.numpy())


@pytest.mark.parametrize("grid_side", [1, 2, 12, 48])
@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_interpolation(h, w, grid_side):
    indices, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, h, w]]), grid_side, align_corners=True, spatial_merge_size=2)
    our_indices, our_weights = interpolation(h, w, grid_side, 2)
    assert (our_indices.dtype, our_weights.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(our_indices, indices.numpy())
    np.testing.assert_array_equal(our_weights, weights.numpy())


@settings(max_examples=100, deadline=None)
@given(h=st.integers(1, 60), w=st.integers(1, 60), merge=st.sampled_from([1, 2, 3]), side=st.integers(1, 64))
def test_interpolation_of_any_grid(h, w, merge, side):
    indices, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, h * merge, w * merge]]), side, align_corners=True, spatial_merge_size=merge)
    our_indices, our_weights = interpolation(h * merge, w * merge, side, merge)
    np.testing.assert_array_equal(our_indices, indices.numpy())
    np.testing.assert_array_equal(our_weights, weights.numpy())


@pytest.fixture(scope="module")
def reference():
    with torch.device("meta"):
        return Qwen3VLMoeModel(make_config())


def reference_positions(model, kinds, image_grids, video_grids):
    """Position ids and delta of the reference, for token kinds 0 (text), 1 (image) and 2 (video)."""
    def tensor(grids):
        return torch.tensor(grids) if grids else None

    ids = torch.zeros((1, len(kinds)), dtype=torch.long)
    positions, delta = model.get_rope_index(ids, torch.tensor([kinds]), tensor(image_grids), tensor(video_grids))
    return positions[:, 0].numpy(), int(delta)


def layout(parts):
    """Token kinds and grids of a prompt: a number is that much text, (kind, t, h, w) an image or a video."""
    kinds, grids = [], {IMAGE: [], VIDEO: []}
    order = []
    for part in parts:
        if isinstance(part, int):
            kinds += [TEXT] * part
            continue
        kind, t, h, w = part
        for _ in range(t):
            # Text always stands before a frame: its time, and the token that starts it.
            kinds += [TEXT, TEXT] + [kind] * (h * w // 4)
        kinds.append(TEXT)
        grids[kind].append([t, h, w])
        order.append([t, h, w])
    return kinds, grids[IMAGE], grids[VIDEO], np.array(order).reshape(-1, 3)


MIXTURES = {
    "text": [7],
    "one token": [1],
    "image": [3, (IMAGE, 1, 4, 6), 5],
    "wide image": [1, (IMAGE, 1, 2, 40), 1],
    "images of different sizes": [3, (IMAGE, 1, 4, 6), 2, (IMAGE, 1, 8, 4), (IMAGE, 1, 2, 2), 9],
    "video": [4, (VIDEO, 3, 4, 8), 2],
    "mixture": [4, (VIDEO, 2, 4, 4), 1, (IMAGE, 1, 6, 2), (VIDEO, 1, 2, 6), 3, (IMAGE, 1, 2, 2), 1],
}


@pytest.mark.parametrize("name", MIXTURES)
def test_mrope_positions(reference, name):
    kinds, images, videos, grids = layout(MIXTURES[name])
    expected, delta = reference_positions(reference, kinds, images, videos)
    ours, our_delta = mrope_positions(np.array(kinds) != TEXT, grids, 2)
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, expected)
    assert our_delta == delta


SIDES = st.integers(1, 8).map(lambda n: 2 * n)
PARTS = st.one_of(st.integers(1, 9), st.tuples(st.just(IMAGE), st.just(1), SIDES, SIDES),
                  st.tuples(st.just(VIDEO), st.integers(1, 4), SIDES, SIDES))


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(PARTS, min_size=1, max_size=8))
def test_mrope_positions_of_any_mixture(reference, parts):
    kinds, images, videos, grids = layout(parts)
    expected, delta = reference_positions(reference, kinds, images, videos)
    ours, our_delta = mrope_positions(np.array(kinds) != TEXT, grids, 2)
    np.testing.assert_array_equal(ours, expected)
    assert our_delta == delta


def test_an_image_at_the_very_end(reference):
    kinds = [TEXT] + [IMAGE] * 6
    expected, delta = reference_positions(reference, kinds, [[1, 4, 6]], [])
    ours, our_delta = mrope_positions(np.array(kinds) != TEXT, np.array([[1, 4, 6]]), 2)
    np.testing.assert_array_equal(ours, expected)
    assert our_delta == delta


def test_images_without_text_between_stay_apart():
    """The grids say where one ends; the second starts behind the first one's longer side."""
    positions, _ = mrope_positions(np.ones(2 + 4, bool), np.array([[1, 2, 4], [1, 4, 4]]), 2)
    np.testing.assert_array_equal(positions, [[0, 0, 2, 2, 2, 2], [0, 0, 2, 2, 3, 3], [0, 1, 2, 3, 2, 3]])


@pytest.mark.parametrize(("visual", "grids", "message"), [
    ([0, 1, 1, 0], [[1, 4, 4]], "2 visual tokens, expected 4"),
    ([0, 1, 1, 1, 1], [], "4 visual tokens, expected 0"),
    ([1, 1, 0, 1, 1], [[1, 4, 4]], "interrupted between prompt positions 0 and 4"),
])
def test_grids_that_do_not_fit(visual, grids, message):
    with pytest.raises(InvalidRequest, match=message):
        mrope_positions(np.array(visual, bool), np.array(grids).reshape(-1, 3), 2)
