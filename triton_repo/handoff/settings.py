"""How patient and how large the two ends are; none of it changes a row."""

from __future__ import annotations

from dataclasses import dataclass, fields

from qwen3vl.errors import ArtifactError


class _Positive:
    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value <= 0:
                raise ArtifactError(f"{type(self).__name__}.{field.name} is {value}, expected more than 0")


@dataclass(frozen=True)
class ReceiverSettings(_Positive):
    """The language side.

    Attributes:
        block_bytes: size of a block buffer.
        buffer_bytes: size of all block buffers of a connection together.
        connect_seconds: for a connection, and for each answer to a question that needs no encoding.
        heartbeat_seconds: between two heartbeats.
        missed_heartbeats: unanswered in a row, after which the connection counts as broken.
        stall_seconds: without a word about a transfer, after which it is asked for again; twice as long each time
            that this brings no block.
        attempts: to get a transfer going again, after which it fails: on the same stream without an answer, or on
            another one without a block in between.
        corrupt_blocks: of one transfer, after which it fails.
    """

    block_bytes: int = 8 * 1024 * 1024
    buffer_bytes: int = 128 * 1024 * 1024
    connect_seconds: float = 5.0
    heartbeat_seconds: float = 5.0
    missed_heartbeats: int = 2
    stall_seconds: float = 10.0
    attempts: int = 3
    corrupt_blocks: int = 3


@dataclass(frozen=True)
class SenderSettings(_Positive):
    """The encode side.

    Attributes:
        held_bytes: of encoded rows that wait for receivers, beyond which new jobs are refused as busy.
        retention_seconds: how long the rows of a receiver that has gone silent are kept for its return.
        silence_seconds: without a word from a receiver, after which it counts as gone.
    """

    held_bytes: int = 1024 * 1024 * 1024
    retention_seconds: float = 30.0
    silence_seconds: float = 15.0
