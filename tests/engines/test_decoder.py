"""The visual-row contract: any split of a prompt into prefill chunks gives the same logits."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.onnxruntime.decoder import Decoder
from engines.onnxruntime.vision_encoder import VisionEncoder
from tests.engines.support import make_inputs


@pytest.fixture(scope="module")
def prompt(random_build: Path):
    """A prompt with two images of different sizes, its rows, and its logits in one piece."""
    inputs = make_inputs(random_build)["images"]
    rows = VisionEncoder(random_build / "engines").encode(inputs.patches, inputs.grids)
    decoder = Decoder(random_build / "engines", slots=2, capacity=len(inputs.token_ids) + 4)
    return inputs, rows, decoder, prefill(decoder, 0, inputs, rows, [])


def prefill(decoder: Decoder, slot: int, inputs, rows: np.ndarray, cuts: list[int]) -> np.ndarray:
    edges = [0, *sorted(cuts), len(inputs.token_ids)]
    return np.concatenate([
        decoder.prefill(slot, inputs.token_ids[start:end], inputs.position_ids[:, start:end], rows, start,
                        np.arange(end - start, dtype=np.int32))
        for start, end in itertools.pairwise(edges)])


def test_every_split_in_two_gives_the_same_logits(prompt):
    inputs, rows, decoder, whole = prompt
    for cut in range(1, len(inputs.token_ids)):
        np.testing.assert_allclose(prefill(decoder, 0, inputs, rows, [cut]), whole, atol=1e-4 * np.abs(whole).max())


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_split_in_any_slot_gives_the_same_logits(prompt, data):
    inputs, rows, decoder, whole = prompt
    cuts = data.draw(st.lists(st.integers(1, len(inputs.token_ids) - 1), unique=True))
    logits = prefill(decoder, data.draw(st.integers(0, 1)), inputs, rows, cuts)
    np.testing.assert_allclose(logits, whole, atol=1e-4 * np.abs(whole).max())


@pytest.mark.parametrize("tokens", [1, 7])
def test_chunks_that_are_cut_for_memory_give_the_same_logits_in_the_order_asked_for(prompt, tokens: int, monkeypatch):
    inputs, rows, decoder, whole = prompt
    monkeypatch.setattr(decoder, "_piece", tokens)
    wanted = np.random.default_rng(0).permutation(len(inputs.token_ids))[:9].astype(np.int32)
    logits = decoder.prefill(0, inputs.token_ids, inputs.position_ids, rows, 0, wanted)
    np.testing.assert_allclose(logits, whole[wanted], atol=1e-4 * np.abs(whole).max())


def test_tokens_fed_by_decode_steps_give_the_same_logits(prompt):
    """The language tokens behind the images, one by one beside another sequence, as prefill would take them."""
    inputs, rows, decoder, whole = prompt
    length, tail = len(inputs.token_ids), 5
    assert inputs.token_ids[-tail:].max() < decoder.config.text.vocab_size
    for slot in (0, 1):
        prefill(decoder, slot, inputs, rows, [])
    for index in range(length - tail, length):
        token, position = inputs.token_ids[index], inputs.position_ids[0, index]
        logits = decoder.decode(np.array([token, 7], np.int32), np.array([position, length], np.int32),
                                np.array([index + 1, length + 1], np.int32))
        np.testing.assert_allclose(logits[0], whole[index], atol=1e-4 * np.abs(whole).max())


def test_a_moved_slot_goes_on_as_before(prompt):
    inputs, rows, decoder, _ = prompt
    length = len(inputs.token_ids)
    step = (np.array([9], np.int32), np.array([length + inputs.rope_delta], np.int32), np.array([length + 1], np.int32))
    prefill(decoder, 0, inputs, rows, [])
    expected = decoder.decode(*step)
    prefill(decoder, 1, inputs, rows, [])
    decoder.prefill(0, inputs.token_ids[:3], inputs.position_ids[:, :3], rows, 0, np.array([], np.int32))
    decoder.move_slot(1, 0, length)
    np.testing.assert_array_equal(decoder.decode(*step), expected)


def test_too_many_tokens_for_a_slot_are_refused(prompt):
    inputs, rows, decoder, _ = prompt
    with pytest.raises(ValueError, match="do not fit a slot"):
        decoder.prefill(0, inputs.token_ids, inputs.position_ids, rows, 10, np.array([], np.int32))


def test_deepstack_rows_reach_the_logits_of_the_last_chunk(prompt):
    """Dropping DeepStack for all but the first chunk, a known mistake, must show."""
    inputs, rows, decoder, whole = prompt
    step = decoder.config.rows_per_token
    late = rows.copy().reshape(-1, step, rows.shape[-1])
    late[len(late) // 2 :, 1:] = 0
    logits = prefill(decoder, 0, inputs, late.reshape(rows.shape), [])
    first_late = np.flatnonzero(inputs.token_ids == decoder.config.text.vocab_size + step * (len(late) // 2))[0]
    np.testing.assert_allclose(logits[:first_late], whole[:first_late], atol=1e-4 * np.abs(whole).max())
    assert np.abs(logits[first_late:] - whole[first_late:]).max() > 0.01 * np.abs(whole).max()
