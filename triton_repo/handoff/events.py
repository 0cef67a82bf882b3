"""What can happen to a `fetch`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triton_repo.handoff.errors import HandoffError
from triton_repo.handoff.messages import Message
from triton_repo.handoff.stream import Stream


@dataclass(frozen=True)
class Said:
    """The sender said something of this transfer."""

    stream: Stream
    message: Message
    payload: np.ndarray | None


@dataclass(frozen=True)
class Opened:
    """There is a stream."""

    stream: Stream


@dataclass(frozen=True)
class NotOpened:
    """A stream could not be had."""

    error: HandoffError


@dataclass(frozen=True)
class Lost:
    """A stream is broken."""

    stream: Stream
    error: HandoffError


@dataclass(frozen=True)
class Slots:
    """The transfer may use these slots."""

    stream: Stream
    slots: list[int]


Event = Said | Opened | NotOpened | Lost | Slots
