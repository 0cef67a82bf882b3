"""Text comes out whole: no character and no stop string is ever cut."""

from hypothesis import given
from hypothesis import strategies as st

from engines.batching.emitter import Emitter, incomplete_suffix

# Token 256 is a special token without text; the last ones are words of several bytes.
TOKENS = [bytes([byte]) for byte in range(256)] + [b"", b"END", "é".encode(), "好".encode()[1:] + b"a", b"stop st"]


def run(tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """Push tokens until a stop string; the texts as they are shown, and whether a stop string came."""
    emitter, shown, stopped = Emitter(TOKENS, tuple(text.encode() for text in stop)), [], False
    for token in tokens:
        if stopped := emitter.push(token):
            break
        ids, size = emitter.take()
        assert size == sum(len(TOKENS[i]) for i in ids)
        shown.append(b"".join(TOKENS[i] for i in ids).decode("utf-8", "replace"))
    ids, size = emitter.flush()
    shown.append(b"".join(TOKENS[i] for i in ids)[:size].decode("utf-8", "replace"))
    return shown, stopped


@given(st.text(max_size=40))
def test_valid_text_is_shown_in_whole_characters(text: str):
    shown, _ = run(list(text.encode()))
    assert "".join(shown) == text
    assert shown == [*text_prefixes(text), ""]


def text_prefixes(text: str) -> list[str]:
    """For each byte, the character that it completes, if it does."""
    return [part for character in text for part in [*[""] * (len(character.encode()) - 1), character]]


@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=40))
def test_any_bytes_give_the_same_text_as_decoding_them_at_once(tokens: list[int]):
    shown, _ = run(tokens)
    assert "".join(shown) == b"".join(TOKENS[i] for i in tokens).decode("utf-8", "replace")


LETTERS = "abé好🔴"


@given(st.text(LETTERS, max_size=30), st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_where_a_search_finds_them(text: str, stop: list[str]):
    shown, stopped = run(list(text.encode()), tuple(stop))
    ends = [text.find(s) + len(s) for s in stop if s in text]
    assert stopped == bool(ends)
    if ends:
        seen = text[: min(ends)]  # what was generated when the first stop string was complete
        assert "".join(shown) == seen[: min(seen.find(s) for s in stop if s in seen)]
    else:
        assert "".join(shown) == text


def test_what_may_become_a_stop_string_waits():
    emitter = Emitter(TOKENS, (b"stop it",))
    for byte in b"stop i":
        assert not emitter.push(byte)
        assert emitter.take() == ([], 0)
    assert not emitter.push(ord("x"))
    ids, size = emitter.take()
    assert bytes(ids) == b"stop ix" and size == 7


def test_a_token_whose_end_may_begin_a_stop_string_waits_whole():
    word = TOKENS.index(b"stop st")
    emitter = Emitter(TOKENS, (b"stop it",))
    assert not emitter.push(word)
    assert emitter.take() == ([], 0)
    assert [emitter.push(byte) for byte in b"op it"] == [False] * 4 + [True]
    ids, size = emitter.flush()
    assert ids[0] == word and b"".join(TOKENS[i] for i in ids)[:size] == b"stop "


def test_a_stop_string_within_one_token_cuts_it():
    assert run([ord("x"), TOKENS.index(b"END")], ("N",)) == (["x", "E"], True)


@given(st.characters())
def test_incomplete_suffix_counts_the_bytes_of_a_cut_character(character: str):
    data = character.encode("utf-8", "surrogatepass")
    for cut in range(1, len(data)):
        assert incomplete_suffix(b"ab" + data[:cut]) == cut
    assert incomplete_suffix(b"ab" + data) == 0
