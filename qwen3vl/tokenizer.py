"""Text <-> token ids, on `tokenizers`, for the byte-level BPE that Qwen's checkpoints use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from qwen3vl.errors import CheckpointError
from qwen3vl.json_files import read_json

# A prompt as a mixture of text and control tokens, which are ids already and so cannot be forged by text.
Segment = str | int


class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        token_bytes: id -> the bytes it stands for; b"" for special tokens and ids without a token. As long as the
            model's vocabulary.
        special_tokens: text -> id of the control tokens, such as `<|im_end|>`.
        eos_token_ids: tokens that end an answer.
    """

    def __init__(self, definition: str, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        """
        Args:
            definition: content of a `tokenizer.json`.
            vocab_size: the model's vocabulary, at least as large as the tokenizer's.

        Raises:
            CheckpointError: not a byte-level BPE tokenizer, or ids beyond the vocabulary.
        """
        try:
            self._backend = tokenizers.Tokenizer.from_str(definition)
            self._text_backend = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # the library raises bare Exceptions
            raise CheckpointError(f"not a tokenizer definition: {error}") from None
        self._text_backend.encode_special_tokens = True
        added = self._backend.get_added_tokens_decoder()
        self.special_tokens = {token.content: id for id, token in added.items() if token.special}
        self._special_pattern = re.compile("|".join(map(re.escape, sorted(self.special_tokens, key=len, reverse=True)))
                                           or r"(?!)")
        self.token_bytes = _token_bytes(self._backend, vocab_size)
        self.eos_token_ids = tuple(eos_token_ids)
        for id in self.eos_token_ids:
            if not 0 <= id < vocab_size:
                raise CheckpointError(f"the end token's id is {id}, expected one below vocab_size = {vocab_size}")

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path) -> Tokenizer:
        """Read `tokenizer.json`, with the end tokens of `generation_config.json` or else `config.json`.

        Raises:
            CheckpointError: a file is missing or broken, or not of a byte-level BPE tokenizer.
        """
        folder = Path(checkpoint)
        path = folder / "tokenizer.json"
        config = read_json(folder / "config.json")
        text_config = config.get("text_config") or {}
        vocab_size = text_config.get("vocab_size")
        if not isinstance(vocab_size, int):
            raise CheckpointError(f"{folder / 'config.json'}: text_config.vocab_size is {vocab_size!r}, expected a "
                                  "number")
        eos_token_ids = _eos_token_ids(folder, config, text_config)
        try:
            return cls(path.read_text(encoding="utf-8"), vocab_size, eos_token_ids)
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist: pass the folder of a whole Hugging Face "
                                  "checkpoint") from None
        except (CheckpointError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Token ids; control tokens written in the text become control tokens."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_text(self, text: str) -> list[int]:
        """Token ids of text that may come from anybody: control tokens written in it are plain characters."""
        return self._text_backend.encode(text, add_special_tokens=False).ids

    def split(self, text: str) -> list[Segment]:
        """Take the control tokens out of trusted text: `encode_segments(split(text)) == encode(text)`."""
        segments: list[Segment] = []
        end = 0
        for match in self._special_pattern.finditer(text):
            if match.start() > end:
                segments.append(text[end:match.start()])
            segments.append(self.special_tokens[match.group()])
            end = match.end()
        return [*segments, text[end:]] if end < len(text) else segments

    def encode_segments(self, segments: Iterable[Segment]) -> list[int]:
        """Token ids of a prompt; neighbouring texts are tokenised as one."""
        ids: list[int] = []
        text: list[str] = []
        for segment in segments:
            if isinstance(segment, str):
                text.append(segment)
                continue
            ids += self.encode_text("".join(text)) if text else []
            text.clear()
            ids.append(segment)
        return ids + self.encode_text("".join(text)) if text else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of these tokens without the control tokens; incomplete UTF-8 becomes U+FFFD."""
        return b"".join(self.token_bytes[id] for id in ids).decode("utf-8", "replace")


def byte_characters() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE -> the bytes they stand for.

    Printable Latin-1 characters stand for themselves, the other bytes, in order, for the characters from U+0100 on
    (GPT-2's alphabet).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _token_bytes(backend: tokenizers.Tokenizer, vocab_size: int) -> list[bytes]:
    added = backend.get_added_tokens_decoder()
    alphabet = byte_characters()
    table = [b""] * vocab_size
    for token, id in backend.get_vocab(with_added_tokens=True).items():
        if id >= vocab_size:
            raise CheckpointError(f"token {token!r} has id {id}, expected ids below the model's vocab_size = "
                                  f"{vocab_size}: tokenizer and model do not belong together")
        if id in added:
            table[id] = b"" if added[id].special else added[id].content.encode()
            continue
        try:
            table[id] = bytes(alphabet[character] for character in token)
        except KeyError as error:
            raise CheckpointError(f"token {token!r} contains {error.args[0]!r}, which stands for no byte: only "
                                  "byte-level BPE tokenizers are supported") from None
    return table


def _eos_token_ids(folder: Path, config: dict, text_config: dict) -> tuple[int, ...]:
    generation = folder / "generation_config.json"
    candidates = [read_json(generation).get("eos_token_id")] if generation.exists() else []
    for value in [*candidates, config.get("eos_token_id"), text_config.get("eos_token_id")]:
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if ids and all(isinstance(id, int) for id in ids):
            return tuple(ids)
        raise CheckpointError(f"{folder}: eos_token_id is {value!r}, expected a token id or a list of them")
    raise CheckpointError(f"{folder}: no eos_token_id in {generation.name} or config.json, so answers would never end: "
                          "add one to generation_config.json")
