"""The encode side: files that language servers send become visual rows."""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engines.batching.admission import require_room
from qwen3vl.errors import InvalidRequest, Overloaded
from qwen3vl.patches import Patches, image_patches
from qwen3vl.visual_files import VisualSettings
from triton_repo.build_paths import BuildPaths
from triton_repo.handoff.encode_task import EncodeTask
from triton_repo.handoff.errors import Cancelled, TypeMismatch
from triton_repo.handoff.job import EncodeJob
from triton_repo.vision_encoder import GROUP_PATCHES, VisionService

# Patches that are prepared while the engine works: enough for the next group, and a bound of the memory they take.
PREPARED_PATCHES = GROUP_PATCHES


@dataclass(frozen=True)
class EncodeStats:
    """Attributes: `images` encoded since the start, and those `waiting` or at work; videos among them."""

    images: int
    waiting: int


class EncodeService:
    """Prepares files in threads of its own and encodes them together. The engine is in memory from the start.

    Args:
        build: the build whose engine, preparation settings and limits to use.
        threads: compute threads of the engine; 0 for one for each core.

    Raises:
        Exception: the engine does not work.
    """

    def __init__(self, build: BuildPaths, threads: int) -> None:
        self._settings = VisualSettings.from_checkpoint(build.processor)
        self._limits = build.limits()
        self._vision = VisionService(build, threads)
        self._room = _Room(PREPARED_PATCHES)
        self._preparing = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="prepare")
        self._images = self._waiting = 0
        self._lock = threading.Lock()
        self._warm_up()

    def stats(self) -> EncodeStats:
        return EncodeStats(self._images, self._waiting)

    def encode(self, task: EncodeTask) -> None:
        """Take a task; its rows, or why there are none, are delivered from another thread.

        What is delivered instead of rows: `InvalidRequest` where the file cannot be served, `Overloaded` where as many
        as the limit `queue` allows are waiting, `TypeMismatch` where the language side prepares files otherwise.
        """
        try:
            with self._lock:
                require_room(self._waiting, self._limits.queue, "images")
                self._waiting += 1
        except Overloaded as error:
            task.deliver(error)
            return
        try:
            self._preparing.submit(self._prepare, task)
        except RuntimeError:
            self._end(task, Overloaded("the encode server is stopping: try again later"))

    def close(self) -> None:
        """Finish what has been taken, then stop."""
        self._preparing.shutdown(wait=True)
        self._vision.close()

    def _warm_up(self) -> None:
        """Encode the smallest image: a server that is ready is one whose engine works."""
        smallest = image_patches(Image.new("RGB", (1, 1)), self._settings.images)
        answers: queue.SimpleQueue[np.ndarray | Exception] = queue.SimpleQueue()
        self._vision.submit(smallest.pixels, np.array([smallest.grid], np.int32), answers.put)
        if isinstance(error := answers.get(), Exception):
            raise error

    def _prepare(self, task: EncodeTask) -> None:
        try:
            if task.cancelled():
                raise Cancelled("the language server does not wait any more")
            patches = self._patches(task.job)
            self._room.take(len(patches.pixels))
        except Exception as error:
            self._end(task, error)
            return

        def on_rows(rows: np.ndarray | Exception) -> None:
            self._room.give_back(len(patches.pixels))
            self._end(task, rows)

        try:
            self._vision.submit(patches.pixels, np.array([patches.grid], np.int32), on_rows)
        except Exception as error:
            on_rows(error)

    def _patches(self, job: EncodeJob) -> Patches:
        if job.kind not in ("image", "video"):
            raise InvalidRequest(f"the file is of the kind {job.kind!r}, expected image or video")
        file = self._settings.open(job.kind, job.media, self._limits)
        if file.grid != tuple(job.grid):
            raise TypeMismatch(f"the {job.kind} has {file.grid} patches (frames, rows, columns) here, but "
                               f"{tuple(job.grid)} on the language server")
        return file.patches()

    def _end(self, task: EncodeTask, rows: np.ndarray | Exception) -> None:
        with self._lock:
            self._waiting -= 1
            self._images += not isinstance(rows, Exception)
        task.deliver(rows)


class _Room:
    """A number of patches; one file may have more, if it is alone."""

    def __init__(self, patches: int) -> None:
        self._patches, self._taken, self._changed = patches, 0, threading.Condition()

    def take(self, patches: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + patches <= self._patches)
            self._taken += patches

    def give_back(self, patches: int) -> None:
        with self._changed:
            self._taken -= patches
            self._changed.notify_all()
