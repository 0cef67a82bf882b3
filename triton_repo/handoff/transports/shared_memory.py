"""Blocks through memory that both processes of one machine map.

The memory is a memfd: it has no name, so nothing is left of it when both processes are gone, however they ended. The
receiver hands the descriptor over a Unix socket in the abstract namespace, which is gone with its process too. Both
work between containers if they share the network namespace. The memory is sealed in its size, so that neither side can
take pages away from under the other.

(Triton's own system shared memory would have to be registered with the server by name, outlives a killed receiver, and
is filled by the server from a copy of the model's output; a receiver's slots cannot be written by the model itself.)
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import socket
import threading

import numpy as np

from triton_repo.handoff.bulk import copy
from triton_repo.handoff.errors import TransportFailed

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_CONNECT_SECONDS = 5.0


class SharedBuffers:
    """See `ReceiveBuffers`. The memory is handed to whoever connects first and knows the random name."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self._file = os.memfd_create("qwen3vl-handoff", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._file, slots * slot_bytes)
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
        self._memory = _Mapping(self._file)
        self.slots, self.slot_bytes = slots, self._memory.size // slots
        self._name = f"qwen3vl-handoff-{secrets.token_hex(16)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"\0{self._name}")
        self._listener.listen(1)
        threading.Thread(target=self._hand_over, name="shared memory", daemon=True).start()

    def describe(self) -> dict:
        return {"name": self._name, "slots": self.slots}

    def opened(self, answer: dict) -> None:
        pass

    def read(self, slot: int, payload: np.ndarray | None, into: np.ndarray) -> None:
        copy(into, self._memory.slice(slot * self.slot_bytes, into.nbytes))

    def close(self) -> None:
        # A shutdown wakes the thread that waits in `accept`; closing alone would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._memory.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _hand_over(self) -> None:
        try:
            connection, _ = self._listener.accept()
            with connection:
                socket.send_fds(connection, [b"x"], [self._file])
        except OSError:
            # Closed, or the sender went away: it will say so by gRPC.
            return
        finally:
            self._listener.close()


class SharedWriter:
    """See `BlockWriter`."""

    def __init__(self, buffers: dict) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CONNECT_SECONDS)
            try:
                connection.connect(f"\0{buffers['name']}")
                _, files, _, _ = socket.recv_fds(connection, 1, 1)
            except OSError as error:
                raise TransportFailed(f"the language server's shared memory cannot be reached ({error}): both servers "
                                      "must run on one machine and in one network namespace, or use another transport"
                                      ) from None
        if not files:
            raise TransportFailed("the language server handed over no shared memory")
        try:
            self._memory = _Mapping(files[0])
        finally:
            os.close(files[0])
        self._slot_bytes = self._memory.size // buffers["slots"]

    def answer(self) -> dict:
        return {}

    def write(self, slot: int, block: np.ndarray) -> None:
        if block.nbytes > self._slot_bytes:
            raise TransportFailed(f"a block of {block.nbytes} bytes was asked for, but slots have {self._slot_bytes}")
        copy(self._memory.slice(slot * self._slot_bytes, block.nbytes), block)

    def close(self) -> None:
        self._memory.close()


class _Mapping:
    """All of a file's memory. Arrays of it must not be kept."""

    def __init__(self, file: int) -> None:
        self.size = os.fstat(file).st_size
        self._map = mmap.mmap(file, self.size)

    def slice(self, first: int, size: int) -> np.ndarray:
        """uint8 [size]; raises TransportFailed if it lies outside, or the mapping is closed."""
        if first < 0 or first + size > self.size:
            raise TransportFailed(f"bytes {first} to {first + size} lie outside the {self.size} bytes of shared memory")
        try:
            return np.frombuffer(self._map, np.uint8, size, first)
        except ValueError:
            raise TransportFailed("the shared memory was given back") from None

    def close(self) -> None:
        # A thread may be copying: the memory is then unmapped with its array.
        with contextlib.suppress(BufferError):
            self._map.close()
