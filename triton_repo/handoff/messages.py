"""What the two sides say to each other. `wire` has the bytes; a payload (the media, or the rows of a block) travels
beside a message, in a tensor of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


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
    """Encode the media in the payload; `attempt` counts all requests and resumes of a transfer.

    `blocks` are granted with it, see `Grant`: they are sent as soon as there are rows.
    """

    session: str
    transfer: str
    attempt: int
    request_id: str
    image_hash: str
    kind: str
    grid: tuple
    blocks: tuple


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
    """The answer to a heartbeat: transfers of all clients that are not over, and visual rows still to be encoded for or
    sent to clients other than the one that asks: it knows best what it has asked for itself."""

    number: int
    instance: str
    transfers: int
    rows_for_others: int


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
    """Rows are there, and not all of them were granted before. `encoding` is another one each time the media are
    encoded: rows of two never belong together."""

    transfer: str
    attempt: int
    encoding: str
    tokens: int
    rows: int
    hidden: int
    dtype: str


@dataclass(frozen=True)
class Block(Message):
    """Whole visual tokens [first, first + tokens), in the payload or in the slot that was granted. Says by itself that
    rows are there.

    Attributes:
        rows: main and DeepStack rows of these tokens: (1 + D) * tokens.
        checksum: of the rows' bytes, see `bulk.checksum`.
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
