"""Blocks by NIXL, NVIDIA's transfer library: one-sided writes into the receiver's registered memory.

Between machines it takes RDMA where there is such a network and TCP else; within one, whatever UCX finds fastest. Each
stream has an agent of its own on both sides, so that closing a stream ends its transfers.

A write may still be on its way when its stream is closed, and on one machine UCX writes into the other process without
its help. So memory that was once registered is never used for anything but block buffers again: a late write can only
hit a later block, whose checksum then tells.
"""

from __future__ import annotations

import base64
import importlib
import secrets
import threading
import time
from types import ModuleType

import numpy as np

from triton_repo.handoff.bulk import copy
from triton_repo.handoff.errors import TransportFailed
from triton_repo.handoff.transports import require_slot

PACKAGES = ("nixl_cu13", "nixl_cu12")
BACKEND = "UCX"
# A block that takes longer than this goes nowhere.
WRITE_SECONDS = 10.0
POLL_SECONDS = 0.00005


class NixlBuffers:
    """See `ReceiveBuffers`."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self._agent = _agent()
        self._memory = _MEMORY.take(slots * slot_bytes)
        self.slots, self.slot_bytes = slots, self._memory.nbytes // slots
        self._registered = self._agent.register_memory([(*_span(self._memory), "")], "DRAM")
        self._metadata = self._agent.get_agent_metadata()

    def describe(self) -> dict:
        return {"metadata": base64.b64encode(self._metadata).decode(), "address": self._memory.ctypes.data,
                "slot_bytes": self.slot_bytes, "slots": self.slots}

    def opened(self, answer: dict) -> None:
        pass

    def read(self, slot: int, payload: np.ndarray | None, into: np.ndarray) -> None:
        first = slot * self.slot_bytes
        copy(into, self._memory[first:first + into.nbytes])

    def close(self) -> None:
        if self._agent is not None:
            self._agent.deregister_memory(self._registered)
            self._agent = None
            _MEMORY.give_back(self._memory)


class NixlWriter:
    """See `BlockWriter`. Blocks go through one registered buffer, so that rows need not be registered."""

    def __init__(self, buffers: dict) -> None:
        self._address, self._slots, self._slot_bytes = buffers["address"], buffers["slots"], buffers["slot_bytes"]
        self._agent = _agent()
        self._staging = np.empty(self._slot_bytes, np.uint8)
        self._registered = self._agent.register_memory([(*_span(self._staging), "")], "DRAM")
        self._receiver = self._agent.add_remote_agent(base64.b64decode(buffers["metadata"]))

    def answer(self) -> dict:
        return {}

    def write(self, slot: int, block: np.ndarray) -> None:
        require_slot(slot, block.nbytes, self._slots, self._slot_bytes)
        copy(self._staging[:block.nbytes], block)
        agent = self._agent
        source = agent.get_xfer_descs([(self._staging.ctypes.data, block.nbytes, 0)], "DRAM")
        target = agent.get_xfer_descs([(self._address + slot * self._slot_bytes, block.nbytes, 0)], "DRAM")
        try:
            transfer = agent.initialize_xfer("WRITE", source, target, self._receiver)
            try:
                self._wait(transfer)
            finally:
                agent.release_xfer_handle(transfer)
        except TransportFailed:
            raise
        except Exception as error:
            # NIXL's errors have no base of their own.
            raise TransportFailed(f"NIXL could not write a block: {error}") from error

    def close(self) -> None:
        self._agent.remove_remote_agent(self._receiver)
        self._agent.deregister_memory(self._registered)
        self._agent = None

    def _wait(self, transfer: object) -> None:
        state, deadline = self._agent.transfer(transfer), time.monotonic() + WRITE_SECONDS
        while state == "PROC":
            if time.monotonic() > deadline:
                raise TransportFailed(f"NIXL did not write a block within {WRITE_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
            state = self._agent.check_xfer_state(transfer)
        if state != "DONE":
            raise TransportFailed(f"NIXL could not write a block: its transfer ended as {state}")


class _RegisteredMemory:
    """Memory for block buffers, which stays that for as long as the process lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[np.ndarray] = []

    def take(self, size: int) -> np.ndarray:
        """uint8 [size], of earlier buffers of this size if there are some."""
        with self._lock:
            for i, memory in enumerate(self._free):
                if memory.nbytes == size:
                    return self._free.pop(i)
        return np.zeros(size, np.uint8)

    def give_back(self, memory: np.ndarray) -> None:
        with self._lock:
            self._free.append(memory)


_MEMORY = _RegisteredMemory()


def _agent() -> object:
    """A NIXL agent with the UCX backend; raises TransportFailed where there is none."""
    api = _api()
    agent = api.nixl_agent(f"qwen3vl-{secrets.token_hex(8)}", api.nixl_agent_config(backends=[BACKEND]))
    if BACKEND not in agent.backends:
        raise TransportFailed(f"NIXL has no backend {BACKEND}, only {', '.join(agent.get_plugin_list())}")
    return agent


def _api() -> ModuleType:
    for package in PACKAGES:
        try:
            return importlib.import_module(f"{package}._api")
        except ImportError:
            continue
    raise TransportFailed("the transport nixl needs the package nixl-cu12 or nixl-cu13: run `pip install --no-deps "
                          "nixl-cu12`, or use another transport")


def _span(memory: np.ndarray) -> tuple[int, int, int]:
    """Address, size and device of host memory."""
    return memory.ctypes.data, memory.nbytes, 0
