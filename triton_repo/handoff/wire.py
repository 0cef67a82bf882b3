"""Messages as bytes.

An envelope (magic, version, size and CRC-32 of what follows) and a JSON object whose `type` names the message. Envelope
and version come first in every version of the protocol, so that each side can tell the other's.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from functools import cache
from typing import Any, get_type_hints

from triton_repo.handoff.errors import ProtocolError, VersionMismatch
from triton_repo.handoff.messages import Message

VERSION = 2
_MAGIC = b"QVLR"
_ENVELOPE = struct.Struct("<4sHxxII")


def encode_message(message: Message, version: int = VERSION) -> bytes:
    """The bytes of a message."""
    body = json.dumps({"type": message.type, **dataclasses.asdict(message)}, separators=(",", ":")).encode()
    return _ENVELOPE.pack(_MAGIC, version, len(body), zlib.crc32(body)) + body


def decode_message(data: bytes) -> Message:
    """Read a message.

    Raises:
        VersionMismatch: it is one of another version of the protocol.
        ProtocolError: it is no message, damaged, or has fields missing, too many or of a wrong type.
    """
    if len(data) < _ENVELOPE.size or data[:4] != _MAGIC:
        raise ProtocolError(f"{len(data)} bytes that are no hand-off message: the other side is not of this project")
    _, version, size, crc = _ENVELOPE.unpack_from(data)
    if version != VERSION:
        raise VersionMismatch(f"the other side speaks version {version} of the hand-off protocol, this one {VERSION}: "
                              "run the same release of this project on both sides")
    body = data[_ENVELOPE.size:]
    if len(body) != size or zlib.crc32(body) != crc:
        raise ProtocolError(f"a hand-off message is damaged: {len(body)} bytes instead of {size}, or a wrong CRC-32")
    try:
        values = json.loads(body)
        kind = Message.types[values.pop("type")]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ProtocolError(f"a hand-off message of no known type: {body[:80]!r}") from None
    return _message(kind, values)


def _message(kind: type[Message], values: dict[str, Any]) -> Message:
    hints = _hints(kind)
    if set(values) != set(hints):
        raise ProtocolError(f"a {kind.type} message has the fields {sorted(values)}, expected {sorted(hints)}")
    return kind(**{name: _value(f"{kind.type}.{name}", value, hints[name]) for name, value in values.items()})


@cache
def _hints(kind: type[Message]) -> dict[str, type]:
    """The fields of a message. Found once: evaluating annotations takes longer than everything else about a message."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _value(name: str, value: object, hint: type) -> object:
    if hint is tuple and isinstance(value, list):
        return tuple(_numbers(name, item) if isinstance(item, list) else _number(name, item) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ProtocolError(f"{name} of a hand-off message is {value!r}, expected {hint.__name__}")
    return value


def _numbers(name: str, values: list) -> tuple[int, ...]:
    return tuple(_number(name, value) for value in values)


def _number(name: str, value: object) -> int:
    if type(value) is not int:
        raise ProtocolError(f"{name} of a hand-off message holds {value!r}, expected whole numbers")
    return value
