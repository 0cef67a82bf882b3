"""Chat messages in OpenAI's format, checked for structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qwen3vl.data_urls import data_url_bytes, is_data_url
from qwen3vl.errors import InvalidRequest

ROLES = ("system", "user", "assistant")
# Part type -> (what it shows, the fields that may hold an inline data: URL).
VISUAL_PARTS = {"image": ("image", ("image", "url")), "image_url": ("image", ("image_url",)),
                "video": ("video", ("video", "url")), "video_url": ("video", ("video_url",))}


@dataclass(frozen=True)
class Conversation:
    """Messages of valid structure.

    Attributes:
        messages: as the template sees them: role and content, a string or parts of type "text", "image" and "video".
        images, videos: for each such part, in order, its inline data: URL, or None where it stands for the next file
            sent with the request.
    """

    messages: list[dict]
    images: list[str | None]
    videos: list[str | None]

    def texts(self) -> Iterator[str]:
        for message in self.messages:
            if isinstance(message["content"], str):
                yield message["content"]
            else:
                yield from (part["text"] for part in message["content"] if part["type"] == "text")


def parse_messages(messages: object) -> Conversation:
    """Check messages in OpenAI's chat format.

    A message is {"role": "system" | "user" | "assistant", "content": text or a list of parts}, a part one of
    {"type": "text", "text": ...}, {"type": "image"} or {"type": "video"} (the next file of the request), or
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}} and the same with "video_url".

    Raises:
        InvalidRequest: anything else; the message says where.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(f"messages is {_show(messages)}, expected a list of at least one message such as "
                             '[{"role": "user", "content": "Hello"}]')
    conversation = Conversation([], [], [])
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        _only_fields(message, where, ("role", "content"))
        if message.get("role") not in ROLES:
            raise InvalidRequest(f"{where}.role is {_show(message.get('role'))}, expected one of {', '.join(ROLES)}")
        content = message.get("content")
        if isinstance(content, list):
            content = [_parse_part(part, f"{where}.content[{k}]", conversation) for k, part in enumerate(content)]
        else:
            check_text(content, f"{where}.content", "a string or a list of parts such as "
                       '[{"type": "image"}, {"type": "text", "text": "What is this?"}]')
        conversation.messages.append({"role": message["role"], "content": content})
    return conversation


def check_text(value: object, where: str, expected: str = "a string") -> None:
    """Refuse anything but a string that has a UTF-8 form (JSON can smuggle in lone surrogates)."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} is {_show(value)}, expected {expected}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{where} is not valid Unicode: {error}") from None


def _parse_part(part: object, where: str, conversation: Conversation) -> dict:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        _only_fields(part, where, ("type", "text"))
        check_text(part.get("text"), f"{where}.text")
        return {"type": "text", "text": part["text"]}
    if not isinstance(kind, str) or kind not in VISUAL_PARTS:
        raise InvalidRequest(f"{where} is {_show(part)}, expected an object whose type is text, "
                             f"{', '.join(VISUAL_PARTS)}")
    shows, fields = VISUAL_PARTS[kind]
    _only_fields(part, where, ("type", *fields))
    sources = [(field, part[field]) for field in fields if part.get(field) is not None]
    if len(sources) > 1:
        raise InvalidRequest(f"{where} has both {' and '.join(field for field, _ in sources)}, expected one of them")
    url = _inline_url(*sources[0], where) if sources else None
    (conversation.images if shows == "image" else conversation.videos).append(url)
    return {"type": shows}


def _inline_url(field: str, source: object, where: str) -> str:
    url = source.get("url") if isinstance(source, dict) else source
    if not isinstance(url, str):
        raise InvalidRequest(f"{where}.{field} is {_show(source)}, expected a data: URL; for a file sent with the "
                             "request leave the field away")
    check_text(url, f"{where}.{field}")
    if not is_data_url(url.encode()):
        data_url_bytes(url, f"{where}.{field}")  # raises: no other URL is read
    return url


def _only_fields(value: object, where: str, fields: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} is {_show(value)}, expected an object with {' and '.join(fields)}")
    unknown = [_show(name) for name in value if name not in fields]
    if unknown:
        raise InvalidRequest(f"{where} has the unknown field {', '.join(unknown)}, expected only {', '.join(fields)}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
