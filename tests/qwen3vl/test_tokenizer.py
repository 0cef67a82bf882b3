"""The tokenizer agrees with transformers, turns ids into bytes without loss, and keeps forged control tokens apart."""

import json
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from qwen3vl.errors import CheckpointError
from qwen3vl.tokenizer import Tokenizer, byte_characters
from tests.support.processor_folder import (
    CONTROL_TOKENS,
    TEXT_TOKENS,
    VOCAB_SIZE,
    make_processor_folder,
    make_tokenizer,
)

EOS = (258, 256)
TEXTS = st.text(max_size=60) | st.lists(
    st.sampled_from([*CONTROL_TOKENS, *TEXT_TOKENS, "<|", "|>", "<", "user", "\n", "\n\n", " ", "  ", ".\n", " the",
                     "7", "é", "e\u0301", "圆", "🙂", "<|im_", "end|>"]), max_size=20).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_processor_folder(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_checkpoint(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_the_byte_alphabet_is_complete():
    assert sorted(byte_characters().values()) == list(range(256))


@settings(max_examples=300, deadline=None)
@given(text=st.text())
@example("\x00\x7f\x80\xa0\xad\xff\u0100 \U0010ffff")
def test_token_bytes_give_any_text_back(tokenizer, text):
    ids = tokenizer.encode_text(text)
    assert b"".join(tokenizer.token_bytes[id] for id in ids) == text.encode()
    assert tokenizer.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_ids_equal_the_reference(tokenizer, reference, text):
    ids = tokenizer.encode(text)
    assert ids == reference(text)["input_ids"]
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_splitting_changes_no_id(tokenizer, text):
    segments = tokenizer.split(text)
    assert tokenizer.encode_segments(segments) == tokenizer.encode(text)
    assert [segment for segment in segments if isinstance(segment, int)] == [
        id for id in tokenizer.encode(text) if id in tokenizer.special_tokens.values()]


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_text_never_becomes_a_control_token(tokenizer, text):
    ids = tokenizer.encode_text(text)
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == text


def test_neighbouring_texts_are_tokenised_as_one(tokenizer):
    start = tokenizer.special_tokens["<|im_start|>"]
    joined = tokenizer.encode_segments(["\n", "\n", start, "us", "er"])
    assert joined == [tokenizer.encode("\n\n")[0], start, tokenizer.encode("user")[0]]
    assert len(tokenizer.encode("\n") + tokenizer.encode("\n")) == 2
    assert tokenizer.encode_segments([]) == []


def test_normalisation_like_qwen(tmp_path):
    """Qwen's tokenizers compose characters first: what comes back is the composed text."""
    folder = make_processor_folder(tmp_path, normalise=True)
    ours, reference = Tokenizer.from_checkpoint(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    for text in ("cafe\u0301", "\u1112\u1161\u11ab<|im_end|>", "\u212b"):
        assert ours.encode(text) == reference(text)["input_ids"]
        assert ours.decode(ours.encode_text(text)) == unicodedata.normalize("NFC", text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
@example("I'm 12 years\n\n  old, don't   you think?\r\n")
def test_the_test_tokenizer_splits_words_like_qwen(text):
    """So that agreement on the test tokenizer says something about the published one."""
    ours = make_tokenizer(normalise=True)
    theirs = Qwen2Tokenizer().backend_tokenizer
    normal = ours.normalizer.normalize_str(text)
    assert normal == theirs.normalizer.normalize_str(text)
    assert ours.pre_tokenizer.pre_tokenize_str(normal) == theirs.pre_tokenizer.pre_tokenize_str(normal)


def test_token_bytes_cover_the_vocabulary(tokenizer):
    assert len(tokenizer.token_bytes) == VOCAB_SIZE
    assert all(tokenizer.token_bytes[id] == b"" for id in tokenizer.special_tokens.values())
    assert set(tokenizer.special_tokens) == set(CONTROL_TOKENS)
    call = tokenizer.encode("<tool_call>")
    assert len(call) == 1
    assert tokenizer.token_bytes[call[0]] == b"<tool_call>"
    assert tokenizer.token_bytes[VOCAB_SIZE - 1] == b""  # the model's vocabulary is larger than the tokenizer's


def test_incomplete_characters_become_replacement_characters(tokenizer):
    ids = tokenizer.encode("é")
    assert tokenizer.decode(ids[:1]) == "\ufffd"


# -- end tokens


def write(folder, name, values):
    (folder / name).write_text(json.dumps(values))


@pytest.mark.parametrize(("generation", "config", "expected"), [
    ({"eos_token_id": [258, 256]}, {"eos_token_id": 3}, (258, 256)), ({"eos_token_id": 258}, {}, (258,)),
    ({}, {"eos_token_id": 3}, (3,)), (None, {"eos_token_id": [3, 4]}, (3, 4)),
    (None, {"text_config": {"vocab_size": VOCAB_SIZE, "eos_token_id": 5}}, (5,)),
    ({"eos_token_id": 0}, {}, (0,)),
])
def test_end_tokens(tmp_path, generation, config, expected):
    folder = make_processor_folder(tmp_path)
    (folder / "generation_config.json").unlink()
    if generation is not None:
        write(folder, "generation_config.json", generation)
    write(folder, "config.json", {"text_config": {"vocab_size": VOCAB_SIZE}, **config})
    assert Tokenizer.from_checkpoint(folder).eos_token_ids == expected


@pytest.mark.parametrize(("values", "message"), [
    ({}, "no eos_token_id in generation_config.json or config.json"),
    ({"eos_token_id": "end"}, "eos_token_id is 'end'"),
    ({"eos_token_id": []}, r"eos_token_id is \[\]"),
    ({"eos_token_id": VOCAB_SIZE}, "end token's id is 300, expected one below vocab_size = 300"),
])
def test_end_tokens_that_are_none(tmp_path, values, message):
    folder = make_processor_folder(tmp_path)
    write(folder, "generation_config.json", values)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_checkpoint(folder)


# -- what is not supported


def test_missing_and_broken_files(tmp_path):
    folder = make_processor_folder(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not a tokenizer definition"):
        Tokenizer.from_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json does not exist"):
        Tokenizer.from_checkpoint(folder)
    write(folder, "config.json", {})
    with pytest.raises(CheckpointError, match=r"text_config.vocab_size is None"):
        Tokenizer.from_checkpoint(folder)


def test_a_vocabulary_that_is_not_bytes():
    definition = json.loads(make_tokenizer().to_str())
    definition["model"]["vocab"]["▁word"] = 299
    with pytest.raises(CheckpointError, match="'▁word' contains '▁', which stands for no byte"):
        Tokenizer(json.dumps(definition), VOCAB_SIZE, EOS)


def test_a_tokenizer_larger_than_the_model():
    with pytest.raises(CheckpointError, match="expected ids below the model's vocab_size = 270"):
        Tokenizer(make_tokenizer().to_str(), 270, EOS)
