"""Visual rows on their way from the host's memory to a decoder on the GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from engines.onnxruntime.device_memory import DeviceMemory
from engines.visual_rows import DeviceRows, VisualRows, join_rows
from qwen3vl.errors import ArtifactError

log = logging.getLogger(__name__)


class RowUpload:
    """Puts the rows of a request's files one behind the other, in the GPU's memory where there is room.

    There the server passes them on without another copy by the host, of which it makes four otherwise.

    Args:
        memory: the GPU's.
        room: whether the server can pass on so many bytes there now.
    """

    def __init__(self, memory: DeviceMemory, room: Callable[[int], bool]) -> None:
        self._memory, self._room = memory, room
        self._warned = False

    def __call__(self, parts: Sequence[np.ndarray], hidden: int) -> VisualRows:
        """As `join_rows`; without a copy in the host's memory if the GPU takes them.

        Args:
            parts: float32 [R, hidden] each.
        """
        rows = sum(map(len, parts))
        if rows == 0 or not self._room(sum(part.nbytes for part in parts)):
            return join_rows(parts, hidden)
        try:
            return self._uploaded(parts, rows, hidden)
        except ArtifactError as error:
            if not self._warned:
                log.warning("visual rows go through the host's memory where the GPU has no room for them: %s", error)
            self._warned = True
            return join_rows(parts, hidden)

    def _uploaded(self, parts: Sequence[np.ndarray], rows: int, hidden: int) -> DeviceRows:
        uploaded = DeviceRows(self._memory, rows, hidden)
        end = uploaded.address
        for part in parts:
            self._memory.upload(end, np.ascontiguousarray(part))
            end += part.nbytes
        return uploaded
