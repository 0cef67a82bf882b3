"""Cutting a stream of tokens into groups whose text can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Emitter:
    """Holds back tokens that end within a UTF-8 character or within what may become a stop string.

    Byte-level tokens have fixed bytes, so text is found without a tokenizer's state.

    Args:
        token_bytes: bytes of each token id; empty for special tokens.
        stop: stop strings in UTF-8.
    """

    token_bytes: Sequence[bytes]
    stop: tuple[bytes, ...] = ()
    _ids: list[int] = field(default_factory=list)
    _text: bytearray = field(default_factory=bytearray)
    _checked: int = 0

    def push(self, token_id: int) -> bool:
        """Add a generated token. Returns whether a stop string is complete: then only `flush` may follow."""
        self._ids.append(token_id)
        self._text += self.token_bytes[token_id]
        if not self.stop:
            return False
        found = self._find_stop()
        self._checked = len(self._text)
        if found is None:
            return False
        del self._text[found:]
        return True

    def take(self) -> tuple[list[int], int]:
        """Remove the tokens that can be shown now: these, and how many bytes they have, all of them text."""
        held = incomplete_suffix(self._text)
        if self.stop:
            held = max(held, self._stop_prefix())
        if not held:
            return self.flush()  # as nearly always; every step does this for every answer
        limit = len(self._text) - held
        count = size = end = 0
        for position, token_id in enumerate(self._ids, 1):
            end += len(self.token_bytes[token_id])
            if end > limit:
                break
            if not incomplete_suffix(self._text[max(0, end - 4) : end]):
                count, size = position, end
        ids, self._ids = self._ids[:count], self._ids[count:]
        del self._text[:size]
        self._checked = len(self._text)
        return ids, size

    def flush(self) -> tuple[list[int], int]:
        """Remove everything held: the tokens, and how many of their bytes are text."""
        ids, size = self._ids, len(self._text)
        self._ids, self._text, self._checked = [], bytearray(), 0
        return ids, size

    def _find_stop(self) -> int | None:
        """Where the first complete stop string starts. Text seen by earlier calls cannot hold a whole one."""
        starts = [self._text.find(stop, max(0, self._checked - len(stop) + 1)) for stop in self.stop]
        return min((start for start in starts if start >= 0), default=None)

    def _stop_prefix(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        longest = 0
        for stop in self.stop:
            for size in range(min(len(stop) - 1, len(self._text)), longest, -1):
                if self._text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


def incomplete_suffix(text: bytes | bytearray) -> int:
    """How many bytes at the end begin a UTF-8 character that further bytes could complete: 0 to 3."""
    for size in range(1, min(3, len(text)) + 1):
        byte = text[-size]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF8 else 1
            return size if needed > size else 0
        if byte < 0x80:
            return 0
    return 0
