"""How the rows of a block get from the encode side into a slot of the language side.

The receiver owns the slots: `ReceiveBuffers` allocates them and says, for the `open` message, where they are. From that
the sender makes a `BlockWriter`. A transport that moves rows beside the messages leaves the block's message without a
payload; what was moved counts once its checksum is right.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from triton_repo.handoff.errors import TransportFailed

TRANSPORTS = ("grpc", "shared_memory", "cuda_shared_memory", "nixl")
# Whichever works between two servers; tried anew with each stream, in this order. The last one always works.
AUTO, TRIED = "auto", ("shared_memory", "grpc")
CHOICES = (AUTO, *TRANSPORTS)


class ReceiveBuffers(Protocol):
    """Slots of the language side, for one stream.

    Attributes:
        slots: how many.
        slot_bytes: size of each, as allocated.
    """

    slots: int
    slot_bytes: int

    def describe(self) -> dict:
        """What a writer must know, as JSON can hold it."""

    def opened(self, answer: dict) -> None:
        """What the writer answered."""

    def read(self, slot: int, payload: np.ndarray | None, into: np.ndarray) -> None:
        """Copy a block to where it is to be, uint8 [bytes].

        Raises:
            TransportFailed: it is not of this size.
        """

    def close(self) -> None:
        """Give the slots back. Whatever a sender may still write goes nowhere."""


class BlockWriter(Protocol):
    """The encode side's way into the slots of one stream."""

    def answer(self) -> dict:
        """What the receiver must know, as JSON can hold it."""

    def write(self, slot: int, block: np.ndarray) -> np.ndarray | None:
        """Put a block, uint8 [bytes], into a slot. Blocks.

        Returns:
            A payload to send with the block's message, if that is how it travels.

        Raises:
            TransportFailed: it cannot be written.
        """

    def close(self) -> None:
        """Let go of the slots."""


def candidates(choice: str) -> tuple[str, ...]:
    """The transports to be tried one after the other, for one of `CHOICES`."""
    return TRIED if choice == AUTO else (choice,)


def receive_buffers(transport: str, block_bytes: int, buffer_bytes: int) -> ReceiveBuffers:
    """Slots of about `block_bytes`, together not more than `buffer_bytes`, but at least one.

    Raises:
        TransportFailed: there is no such transport, or it does not work on this machine.
    """
    slots = max(1, buffer_bytes // block_bytes)
    if transport == "grpc":
        from triton_repo.handoff.transports.grpc_payload import PayloadBuffers

        return PayloadBuffers(slots, block_bytes)
    if transport == "shared_memory":
        from triton_repo.handoff.transports.shared_memory import SharedBuffers

        return SharedBuffers(slots, block_bytes)
    if transport == "cuda_shared_memory":
        from triton_repo.handoff.transports.cuda_shared_memory import CudaBuffers

        return CudaBuffers(slots, block_bytes)
    if transport == "nixl":
        from triton_repo.handoff.transports.nixl import NixlBuffers

        return NixlBuffers(slots, block_bytes)
    raise _no_transport(transport)


def block_writer(transport: str, buffers: dict) -> BlockWriter:
    """The way into slots that were described so.

    Raises:
        TransportFailed: there is no such transport, or it does not reach these slots.
    """
    if transport == "grpc":
        from triton_repo.handoff.transports.grpc_payload import PayloadWriter

        return PayloadWriter(buffers)
    if transport == "shared_memory":
        from triton_repo.handoff.transports.shared_memory import SharedWriter

        return SharedWriter(buffers)
    if transport == "cuda_shared_memory":
        from triton_repo.handoff.transports.cuda_shared_memory import CudaWriter

        return CudaWriter(buffers)
    if transport == "nixl":
        from triton_repo.handoff.transports.nixl import NixlWriter

        return NixlWriter(buffers)
    raise _no_transport(transport)


def require_slot(slot: int, size: int, slots: int, slot_bytes: int) -> None:
    """Raise a TransportFailed unless there is such a slot, and a block of `size` bytes fits it."""
    if size > slot_bytes or not 0 <= slot < slots:
        raise TransportFailed(f"a block of {size} bytes for slot {slot} was asked for, but there are {slots} slots of "
                              f"{slot_bytes}")


def _no_transport(transport: str) -> TransportFailed:
    return TransportFailed(f"there is no transport {transport!r}, only {', '.join(TRANSPORTS)}")
