"""Visual rows that another process lends the decoder for a moment, copied to memory of its own."""

from __future__ import annotations

import logging
import weakref

import numpy as np

from engines.dlpack import Borrowed
from engines.onnxruntime.device_memory import DeviceMemory
from engines.visual_rows import DTYPE, DeviceRows, VisualRows
from qwen3vl.errors import ArtifactError

log = logging.getLogger(__name__)


class RowIntake:
    """Takes rows in: within the device's memory, or to the host's where too many wait there already.

    Args:
        memory: the device's.
        limit: bytes of it that rows may take which no prompt has used yet.
    """

    def __init__(self, memory: DeviceMemory, limit: int):
        self._memory, self._limit = memory, limit
        self._waiting: list[weakref.ref[DeviceRows]] = []
        self._warned = False

    def take(self, borrowed: Borrowed) -> VisualRows:
        """A copy of rows in the device's memory, done when this returns.

        Raises:
            ArtifactError: the driver refuses to copy.
        """
        rows = self._room(borrowed)
        if rows is None:
            array = np.empty(borrowed.shape, DTYPE)
            self._memory.download(array, borrowed.address)
            return array
        self._memory.copy(rows.address, borrowed.address, rows.nbytes)
        self._memory.finish()
        self._waiting.append(weakref.ref(rows))
        return rows

    def waiting_bytes(self) -> int:
        """Bytes of the device's memory in rows that no prompt has used yet."""
        self._waiting = [found for found in self._waiting if (rows := found()) is not None and rows.held]
        return sum(rows.nbytes for found in self._waiting if (rows := found()) is not None)

    def _room(self, borrowed: Borrowed) -> DeviceRows | None:
        count, hidden = borrowed.shape
        if self.waiting_bytes() + count * hidden * DTYPE.itemsize > self._limit:
            return None
        try:
            return DeviceRows(self._memory, count, hidden)
        except ArtifactError as error:
            if not self._warned:
                log.warning("visual rows wait in the host's memory where the GPU has no room for them: %s", error)
            self._warned = True
            return None
