"""Chat messages -> a prompt, by the checkpoint's chat template.

Messages come from anybody, the template from the checkpoint. So only control tokens that the template writes become
control tokens: those written in a message's text stay characters (see `ChatTemplate.render`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwen3vl.errors import CheckpointError, InvalidRequest
from qwen3vl.json_files import read_json
from qwen3vl.messages import Conversation
from qwen3vl.tokenizer import Segment, Tokenizer

PRIVATE_USE = range(0xE000, 0xF900)


class ChatTemplate:
    """The jinja template that turns messages into a prompt, run in a sandbox."""

    def __init__(self, source: str, tokenizer: Tokenizer, variables: dict[str, str] | None = None) -> None:
        """
        Args:
            source: the template's text.
            variables: what else the template may use, such as `bos_token`.

        Raises:
            CheckpointError: the template's syntax is wrong.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                    extensions=[jinja2.ext.loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise_exception,
                                   strftime_now=lambda pattern: datetime.now().strftime(pattern))
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise CheckpointError(f"the chat template is not valid jinja: {error}") from None
        self._tokenizer = tokenizer
        self._variables = variables or {}

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path, tokenizer: Tokenizer) -> ChatTemplate:
        """Read `chat_template.jinja`, or else `chat_template` of `chat_template.json` or `tokenizer_config.json`.

        Raises:
            CheckpointError: there is none, or it is broken.
        """
        folder = Path(checkpoint)
        config = folder / "tokenizer_config.json"
        tokenizer_config = read_json(config) if config.exists() else {}
        variables = {name: _token_text(value) for name, value in tokenizer_config.items()
                     if name in ("bos_token", "eos_token", "unk_token", "pad_token") and value is not None}
        return cls(_template_source(folder, tokenizer_config), tokenizer, variables)

    def render(self, conversation: Conversation) -> list[Segment]:
        """The prompt up to where the answer starts.

        Control tokens written in a message's text must not become control tokens, yet the text has to be tokenised as
        part of the whole prompt. So before rendering their first characters are replaced by characters that no message
        uses, and after it, when the template's own control tokens have been taken out, they come back.

        Raises:
            InvalidRequest: the template refuses the messages.
        """
        stand_ins = _stand_ins(conversation, self._tokenizer.special_tokens)
        guard = _guard(self._tokenizer.special_tokens, stand_ins)
        messages = [{"role": message["role"], "content": _map_texts(message["content"], guard)}
                    for message in conversation.messages]
        try:
            text = self._template.render(messages=messages, tools=None, documents=None, add_generation_prompt=True,
                                         **self._variables)
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"the model's chat template refuses the messages: {error}") from None
        restore = str.maketrans({stand_in: character for character, stand_in in stand_ins.items()})
        return [segment.translate(restore) if isinstance(segment, str) else segment
                for segment in self._tokenizer.split(text)]


def _map_texts(content: str | list[dict], change: Callable[[str], str]) -> str | list[dict]:
    if isinstance(content, str):
        return change(content)
    return [{**part, "text": change(part["text"])} if part["type"] == "text" else part for part in content]


def _stand_ins(conversation: Conversation, special_tokens: dict[str, int]) -> dict[str, str]:
    """A character that no message uses for each first character of a control token."""
    used = set().union(*conversation.texts())
    unused = (character for character in map(chr, PRIVATE_USE) if character not in used)
    stand_ins = dict(zip(sorted({token[0] for token in special_tokens}), unused, strict=False))
    if len(stand_ins) < len({token[0] for token in special_tokens}):
        raise InvalidRequest("the messages use every character from U+E000 to U+F8FF, expected ordinary text")
    return stand_ins


def _guard(special_tokens: dict[str, int], stand_ins: dict[str, str]) -> Callable[[str], str]:
    """A function that puts stand-ins into every control token in a text, and into the beginning of one at the text's
    end, which what comes next might complete (also when the template strips the white space between)."""
    beginnings = {token[:length] for token in special_tokens for length in range(1, len(token))}
    longest = max(map(len, beginnings), default=0)

    def guard(text: str) -> str:
        for token in special_tokens:
            while token in text:  # again, because occurrences may overlap
                text = text.replace(token, stand_ins[token[0]] + token[1:])
        end = len(text.rstrip())
        for start in range(end - 1, max(end - longest, 0) - 1, -1):
            if text[start:end] in beginnings:  # the shortest is part of all longer ones
                return text[:start] + stand_ins[text[start]] + text[start + 1:]
        return text

    return guard


def _template_source(folder: Path, tokenizer_config: dict) -> str:
    jinja_file, json_file = folder / "chat_template.jinja", folder / "chat_template.json"
    if jinja_file.exists():
        return jinja_file.read_text(encoding="utf-8")
    source = read_json(json_file).get("chat_template") if json_file.exists() else tokenizer_config.get("chat_template")
    if not isinstance(source, str):
        raise CheckpointError(f"{folder} has no chat template: expected {jinja_file.name}, or chat_template in "
                              f"{json_file.name} or tokenizer_config.json")
    return source


def _token_text(token: str | dict) -> str:
    return token if isinstance(token, str) else str(token.get("content"))


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None,
            separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    # jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
