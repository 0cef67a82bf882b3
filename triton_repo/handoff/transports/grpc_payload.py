"""Blocks as payloads of their messages: works wherever Triton's gRPC endpoint can be reached.

A slot is no memory here but the leave to have one more block under way.
"""

from __future__ import annotations

import numpy as np

from triton_repo.handoff.bulk import copy
from triton_repo.handoff.errors import TransportFailed


class PayloadBuffers:
    """See `ReceiveBuffers`."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots, self.slot_bytes = slots, slot_bytes

    def describe(self) -> dict:
        return {"slot_bytes": self.slot_bytes}

    def opened(self, answer: dict) -> None:
        pass

    def read(self, slot: int, payload: np.ndarray | None, into: np.ndarray) -> None:
        size = 0 if payload is None else payload.nbytes
        if size != into.nbytes:
            raise TransportFailed(f"a block came with {size} bytes of rows, expected {into.nbytes}")
        copy(into, payload)

    def close(self) -> None:
        pass


class PayloadWriter:
    """See `BlockWriter`."""

    def __init__(self, buffers: dict) -> None:
        self._slot_bytes = buffers["slot_bytes"]

    def answer(self) -> dict:
        return {}

    def write(self, slot: int, block: np.ndarray) -> np.ndarray:
        if block.nbytes > self._slot_bytes:
            raise TransportFailed(f"a block of {block.nbytes} bytes was asked for, but slots have {self._slot_bytes}")
        return block

    def close(self) -> None:
        pass
