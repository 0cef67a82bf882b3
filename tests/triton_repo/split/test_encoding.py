"""The encode side without a server: rows are those of a whole server, errors have its words."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.onnxruntime.vision_encoder import VisionEncoder
from qwen3vl.errors import InvalidRequest, Overloaded
from qwen3vl.processor import Processor
from tests.support.pictures import gif, png
from tests.support.server import LIMITS
from triton_repo.build_paths import BuildPaths
from triton_repo.handoff.encode_task import EncodeTask
from triton_repo.handoff.errors import TypeMismatch
from triton_repo.handoff.job import EncodeJob
from triton_repo.split.encoding import EncodeService, EncodeStats

SECONDS = 60
PLACE = "<|vision_start|><|{}_pad|><|vision_end|>"


@pytest.fixture
def service(live_build: Path) -> Iterator[EncodeService]:
    service = EncodeService(BuildPaths(live_build), threads=1)
    yield service
    service.close()


class Tasks:
    """Tasks whose results come by their number."""

    def __init__(self) -> None:
        self.results: queue.Queue = queue.Queue()

    def task(self, number: int, kind: str, data: bytes, grid: tuple[int, int, int]) -> EncodeTask:
        return EncodeTask(EncodeJob("request", bytes(32), data, kind, grid),
                          lambda rows: self.results.put((number, rows)))

    def wait(self, count: int) -> dict:
        return dict(self.results.get(timeout=SECONDS) for _ in range(count))


def test_rows_are_those_of_a_whole_server(service: EncodeService, live_build: Path) -> None:
    files = [("image", png(1)), ("image", png(2, 96, 64)), ("video", gif(3)), ("image", png(4, 128, 32))]
    processor, encoder = Processor.from_checkpoint(live_build / "processor"), VisionEncoder(live_build / "engines", 1)
    tasks, expected = Tasks(), []
    for number, (kind, data) in enumerate(files):
        prepared = processor(prompt=PLACE.format(kind), **{f"{kind}s": [data]})
        expected.append(encoder.encode(prepared.patches, prepared.grids))
        service.encode(tasks.task(number, kind, data, tuple(prepared.grids[0].tolist())))
    for number, rows in tasks.wait(len(files)).items():
        np.testing.assert_allclose(rows, expected[number], rtol=1e-4, atol=1e-4)
    stats = service.stats()
    assert (stats.images, stats.waiting) == (4, 0)


def test_engine_is_in_memory_before_the_first_image(service: EncodeService) -> None:
    assert service._vision.loaded
    assert service.stats().images == 0


def test_engine_that_does_not_work_is_told_at_the_start(live_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(encoder, requests):
        raise MemoryError("no memory for the engine")

    monkeypatch.setattr(VisionEncoder, "encode_batch", broken)
    with pytest.raises(MemoryError, match="no memory for the engine"):
        EncodeService(BuildPaths(live_build), threads=1)


@pytest.mark.parametrize("kind,data,grid,error,message", [
    ("image", png(1, 96, 64)[:-30], (1, 6, 4), InvalidRequest, "the PNG image of 64x96 pixels is broken or truncated"),
    ("image", b"hello", None, InvalidRequest, "the image (5 bytes"),
    ("image", bytes(LIMITS["image_bytes"] + 1), None, InvalidRequest, "limit image_bytes"),
    ("image", png(1, 512, 512), None, InvalidRequest, "limit image_pixels"),
    ("video", gif(1)[:-200], (2, 4, 4), InvalidRequest, "is broken or truncated"),
    ("sound", png(1), None, InvalidRequest, "kind 'sound'"),
    ("image", png(1), (1, 4, 8), TypeMismatch, "has (1, 4, 4) patches (frames, rows, columns) here, but (1, 4, 8)"),
])
def test_bad_file_gets_its_error_and_the_next_is_encoded(service: EncodeService, kind: str, data: bytes, grid, error,
                                                         message: str) -> None:
    tasks = Tasks()
    service.encode(tasks.task(0, kind, data, grid or (1, 4, 4)))
    service.encode(tasks.task(1, "image", png(1), (1, 4, 4)))
    results = tasks.wait(2)
    assert isinstance(results[0], error)
    assert message in str(results[0])
    assert isinstance(results[1], np.ndarray)
    assert service.stats().waiting == 0


def test_cancelled_task_is_not_encoded(service: EncodeService) -> None:
    tasks = Tasks()
    task = tasks.task(0, "image", png(1), (1, 4, 4))
    task.cancel()
    service.encode(task)
    service.close()
    assert service.stats() == EncodeStats(images=0, waiting=0)
    assert tasks.results.empty()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds the engine up until it is set."""
    gate, encode_batch = threading.Event(), VisionEncoder.encode_batch

    def gated(encoder, requests):
        assert gate.wait(SECONDS)
        return encode_batch(encoder, requests)

    monkeypatch.setattr(VisionEncoder, "encode_batch", gated)
    yield gate
    gate.set()


def test_full_queue_is_refused(service: EncodeService, gate: threading.Event) -> None:
    tasks = Tasks()
    for number in range(LIMITS["queue"] + 1):
        service.encode(tasks.task(number, "image", png(1), (1, 4, 4)))
    refused, = tasks.wait(1).items()
    assert refused[0] == LIMITS["queue"]
    assert isinstance(refused[1], Overloaded)
    gate.set()
    assert all(isinstance(rows, np.ndarray) for rows in tasks.wait(LIMITS["queue"]).values())


def test_only_so_much_is_prepared_ahead(service: EncodeService, gate: threading.Event, monkeypatch) -> None:
    # Each has 16 patches, so that the second, which has been prepared, waits for the first to leave the room.
    opened = []
    original = type(service._settings).open

    def noting(settings, kind, data, limits):
        opened.append(data)
        return original(settings, kind, data, limits)

    monkeypatch.setattr(type(service._settings), "open", noting)
    monkeypatch.setattr(service._room, "_patches", 24)
    tasks = Tasks()
    for number in range(4):
        service.encode(tasks.task(number, "image", png(number), (1, 4, 4)))
    while len(opened) < 2:
        threading.Event().wait(0.01)
    assert not threading.Event().wait(0.2)
    assert len(opened) == 2
    gate.set()
    assert len(tasks.wait(4)) == 4
    assert service._room._taken == 0


def test_close_finishes_what_was_taken(live_build: Path) -> None:
    service, tasks = EncodeService(BuildPaths(live_build), threads=1), Tasks()
    for number in range(3):
        service.encode(tasks.task(number, "image", png(number), (1, 4, 4)))
    service.close()
    assert all(isinstance(rows, np.ndarray) for rows in tasks.wait(3).values())
    service.encode(tasks.task(4, "image", png(4), (1, 4, 4)))
    assert isinstance(tasks.wait(1)[4], Overloaded)


