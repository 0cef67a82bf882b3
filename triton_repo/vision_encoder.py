"""The vision step: images and videos of all requests at hand, encoded together."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engines.batching.admission import require_room
from engines.vision_encoder import vision_encoder
from engines.vision_frames import CALL_PATCHES
from engines.visual_rows import DeviceRows, VisualRows
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from triton_repo.build_paths import BuildPaths
from triton_repo.device_rows import GROUP_IMAGES, group_bytes, open_rows_memory

log = logging.getLogger(__name__)

# Patches taken into one group at most, so that a full queue does not become one huge result. A single request may have
# more.
GROUP_PATCHES = GROUP_IMAGES * CALL_PATCHES

OnRows = Callable[[VisualRows | Exception], None]


@dataclass(frozen=True)
class _Job:
    patches: np.ndarray
    grids: np.ndarray
    on_rows: OnRows


class VisionService:
    """Encodes in one thread; while it works, requests gather, and the next group is all of them.

    Attributes:
        images: images and videos encoded so far.

    Args:
        build: the build whose engine to use.
        threads: compute threads; 0 for one for each core.
        on_device: whether rows stay in the GPU's memory where that can be done (`shares_a_gpu`), for a receiver there.
    """

    def __init__(self, build: BuildPaths, threads: int, *, on_device: bool = False) -> None:
        self._encoder = vision_encoder(build.engines, threads or None, open_rows_memory if on_device else None)
        self._limit, self._lent_limit = build.limits().queue, group_bytes(self._encoder.config)
        self.images = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="vision", daemon=True)
        self._thread.start()

    @property
    def config(self) -> ModelConfig:
        return self._encoder.config

    @property
    def loaded(self) -> bool:
        """Whether the engine is in memory: it is from the first image on."""
        return self._encoder.loaded

    def submit(self, patches: np.ndarray, grids: np.ndarray, on_rows: OnRows) -> None:
        """Encode one request's images.

        Args:
            patches: uint8 [sum(t * h * w), patch_dim].
            grids: int32 [n, 3].
            on_rows: called with visual rows float32 [(1 + D) * N, hidden] or an exception: at once for a request
                without images, with an array, else from the encoding thread.

        Raises:
            InvalidRequest: patches and grids do not fit each other or the model.
            Overloaded: as many requests with images as the limit `queue` allows are waiting.
        """
        self._encoder.validate(patches, grids)
        if len(grids) == 0:
            on_rows(self._encoder.encode(patches, grids))
            return
        require_room(self._jobs.qsize(), self._limit, "requests with images")
        self._jobs.put(_Job(patches, grids, on_rows))

    def close(self) -> None:
        """Finish what has been submitted, then stop."""
        self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        open_ = True
        while open_:
            group, open_ = self._next_group()
            self._serve(group)

    def _serve(self, group: list[_Job]) -> None:
        """Encode and deliver. Rows may take much of a GPU: none are held longer than it takes to deliver them."""
        encoded, lent = self._encode(group)[::-1], 0
        for job in group:
            rows = encoded.pop()
            if isinstance(rows, DeviceRows):
                lent += rows.nbytes
                rows = rows if lent <= self._lent_limit else _to_host(rows)
            self._deliver(job, rows)

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Wait for a job, then take those that are there too. False if there will be no more."""
        group, patches = [], 0
        while True:
            try:
                job = self._jobs.get(block=not group)
            except queue.Empty:
                return group, True
            if job is None:
                return group, False
            group.append(job)
            patches += len(job.patches)
            if patches >= GROUP_PATCHES:
                return group, True

    def _encode(self, group: list[_Job]) -> list[VisualRows | Exception]:
        try:
            return list(self._encoder.encode_batch([(job.patches, job.grids) for job in group]))
        except Exception as error:
            log.exception("encoding %d requests failed", len(group))
            if len(group) == 1:
                return [error]
            # One request, or the size of the group, may be to blame: the others shall not suffer.
            return [rows for job in group for rows in self._encode([job])]

    def _deliver(self, job: _Job, rows: VisualRows | Exception) -> None:
        if not isinstance(rows, Exception):
            self.images += len(job.grids)
        try:
            job.on_rows(rows)
        except Exception:
            log.exception("visual rows could not be delivered")


def _to_host(rows: DeviceRows) -> np.ndarray | ArtifactError:
    try:
        return rows.to_host()
    except ArtifactError as error:
        return error
