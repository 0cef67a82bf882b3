"""What the two sides say to each other: typed messages, and their bytes.

A message is an envelope (magic, version, size and CRC-32 of what follows) and a JSON object whose `type` names the
message. Envelope and version come first in every version of the protocol, so that each side can tell the other's. A
payload (the media, or the rows of a block) travels beside the message, in a tensor of its own.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

from triton_repo.handoff.errors import ProtocolError, VersionMismatch

VERSION = 1
_MAGIC = b"QVLR"
_ENVELOPE = struct.Struct("<4sHxxII")


@dataclass(frozen=True)
class Message:
    """Base of all messages; a subclass is told by its `type`, its name in lower case."""

    type: ClassVar[str]
    types: ClassVar[dict[str, type[Message]]] = {}

    def __init_subclass__(cls) -> None:
        cls.type = cls.__name__.lower()
        cls.types[cls.type] = cls


# ---- from the language side


@dataclass(frozen=True)
class Open(Message):
    """A stream begins. `rows` is the RowsDescription; `buffers` is what the transport says of its block buffers."""

    session: str
    rows: dict
    heartbeat_seconds: float
    transport: str
    buffers: dict


@dataclass(frozen=True)
class Ping(Message):
    """A heartbeat."""

    session: str
    number: int


@dataclass(frozen=True)
class Request(Message):
    """Encode the media in the payload; `attempt` counts all requests and resumes of a transfer."""

    session: str
    transfer: str
    attempt: int
    request_id: str
    image_hash: str
    kind: str
    grid: tuple


@dataclass(frozen=True)
class Resume(Message):
    """Go on with a transfer: earlier grants of it are void, and what comes of it goes to this stream."""

    session: str
    transfer: str
    attempt: int


@dataclass(frozen=True)
class Grant(Message):
    """Send these blocks; each is (number, slot, first token, tokens). Numbers never come again within a transfer."""

    transfer: str
    attempt: int
    blocks: tuple


@dataclass(frozen=True)
class Release(Message):
    """All rows are here: forget the transfer."""

    transfer: str


@dataclass(frozen=True)
class Cancel(Message):
    """The rows are not wanted any more: forget the transfer."""

    transfer: str


# ---- from the encode side


@dataclass(frozen=True)
class Opened(Message):
    """`instance` is another one after each start of the encode server; `buffers` is the transport's answer."""

    session: str
    instance: str
    buffers: dict


@dataclass(frozen=True)
class Rejected(Message):
    """A message could not be accepted, and with it its stream."""

    code: str
    text: str


@dataclass(frozen=True)
class Pong(Message):
    """The answer to a heartbeat: transfers that are not over, and rows still to be encoded or sent, of all clients."""

    number: int
    instance: str
    transfers: int
    rows: int


@dataclass(frozen=True)
class Accepted(Message):
    """The transfer is at work, and no block of an earlier attempt is or will be written any more."""

    transfer: str
    attempt: int


@dataclass(frozen=True)
class Unknown(Message):
    """There is no such transfer to be resumed."""

    transfer: str
    attempt: int


@dataclass(frozen=True)
class Ready(Message):
    """Rows are there. `encoding` is another one each time the media are encoded: rows of two never belong together."""

    transfer: str
    attempt: int
    encoding: str
    tokens: int
    rows: int
    hidden: int
    dtype: str


@dataclass(frozen=True)
class Block(Message):
    """Whole visual tokens [first, first + tokens), in the payload or in the slot that was granted.

    Attributes:
        rows: main and DeepStack rows of these tokens: (1 + D) * tokens.
        checksum: of the rows' bytes, see `blocks.checksum`.
    """

    transfer: str
    attempt: int
    encoding: str
    image_hash: str
    number: int
    slot: int
    first: int
    tokens: int
    rows: int
    hidden: int
    dtype: str
    checksum: int


@dataclass(frozen=True)
class Failed(Message):
    """There will be no rows; no block of the transfer is or will be written any more."""

    transfer: str
    attempt: int
    code: str
    text: str


@dataclass(frozen=True)
class Closed(Message):
    """The transfer is forgotten, or was never known; no block of it is or will be written any more."""

    transfer: str


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
    hints = {field.name: get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
    if set(values) != set(hints):
        raise ProtocolError(f"a {kind.type} message has the fields {sorted(values)}, expected {sorted(hints)}")
    return kind(**{name: _value(f"{kind.type}.{name}", value, hints[name]) for name, value in values.items()})


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
