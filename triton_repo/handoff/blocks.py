"""Blocks: whole visual tokens, in the size that fits the buffers really allocated."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3vl.errors import ArtifactError


@dataclass(frozen=True)
class GrantedBlock:
    """Leave to send one block.

    Attributes:
        number: unique within a transfer.
        slot: the block buffer that it may use.
        first, tokens: visual tokens [first, first + tokens).
    """

    number: int
    slot: int
    first: int
    tokens: int

    @property
    def end(self) -> int:
        return self.first + self.tokens


@dataclass(frozen=True)
class TokenRange:
    """Visual tokens [first, end)."""

    first: int
    end: int


def tokens_per_block(slot_bytes: int, token_bytes: int) -> int:
    """How many visual tokens a block buffer takes.

    Raises:
        ArtifactError: not one.
    """
    if slot_bytes < token_bytes:
        raise ArtifactError(f"a block buffer has {slot_bytes} bytes, but one visual token with its DeepStack rows has "
                            f"{token_bytes}: raise block_bytes")
    return slot_bytes // token_bytes
