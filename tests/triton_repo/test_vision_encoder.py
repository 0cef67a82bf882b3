"""The vision step without a server: what it groups, and that a request's failure stays its own."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np
import pytest

from engines.description import EngineDescription
from engines.onnxruntime.vision_encoder import VisionEncoder
from engines.visual_rows import DeviceRows
from qwen3vl.errors import InvalidRequest, Overloaded
from tests.support.pictures import gif, png
from tests.support.server import LIMITS
from tests.support.watched_memory import WatchedMemory
from triton_repo import vision_encoder
from triton_repo.build_paths import BuildPaths
from triton_repo.patch_rows import patches_of_rows
from triton_repo.preprocess import Preprocessor
from triton_repo.vision_encoder import VisionService

SECONDS = 60
PLACE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture
def service(live_build: Path):
    service = VisionService(BuildPaths(live_build), threads=1)
    yield service
    service.close()


@pytest.fixture(scope="module")
def prepare(live_build: Path):
    """Images and videos -> patches and grids."""
    preprocess = Preprocessor(BuildPaths(live_build))

    def prepared(images: list[bytes], videos: list[bytes] = ()) -> tuple[np.ndarray, np.ndarray]:
        prompt = PLACE * len(images) + PLACE.replace("image", "video") * len(videos)
        inputs = {"prompt": np.array([prompt.encode() or b"x"], np.object_), "images": _strings(images),
                  "videos": _strings(videos)}
        tensors = preprocess(inputs, {})
        vision = EngineDescription.load(live_build / "engines").config.vision
        grids = tensors["grids"]
        return patches_of_rows(tensors["patches"], tensors["rows_per_patch"], grids, vision), grids

    return prepared


def _strings(values) -> np.ndarray:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def test_each_request_gets_its_own_rows(service: VisionService, live_build: Path, prepare) -> None:
    requests = [prepare([png(1)]), prepare([png(2, 96, 64), png(3)]), prepare([], [gif(4)]), prepare([png(5)])]
    answers: queue.Queue = queue.Queue()
    for i, (patches, grids) in enumerate(requests):
        service.submit(patches, grids, lambda rows, i=i: answers.put((i, rows)))
    rows = dict(answers.get(timeout=SECONDS) for _ in requests)
    encoder = VisionEncoder(live_build / "engines", 1)
    for i, request in enumerate(requests):
        np.testing.assert_allclose(rows[i], encoder.encode(*request), rtol=1e-4, atol=1e-4)
    assert service.images == 5


def test_request_without_images_is_answered_at_once_and_loads_nothing(service: VisionService, prepare) -> None:
    answers = []
    service.submit(*prepare([]), answers.append)
    assert answers[0].shape == (0, 64)
    assert not service.loaded


def test_engine_is_loaded_with_the_first_image(service: VisionService, prepare) -> None:
    done = queue.Queue()
    service.submit(*prepare([png(1)]), done.put)
    assert done.get(timeout=SECONDS).shape[1] == 64
    assert service.loaded


class Gate:
    """Holds the encoder up until it is opened, and notes the sizes of the groups it encodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[int] = []
        self.busy, self.open = threading.Event(), threading.Event()
        encode_batch = VisionEncoder.encode_batch

        def gated(encoder, requests):
            self.groups.append(len(requests))
            self.busy.set()
            assert self.open.wait(SECONDS)
            return encode_batch(encoder, requests)

        monkeypatch.setattr(VisionEncoder, "encode_batch", gated)


def test_requests_that_gather_are_one_group(service: VisionService, prepare, monkeypatch) -> None:
    gate, answers = Gate(monkeypatch), queue.Queue()
    service.submit(*prepare([png(1)]), answers.put)
    assert gate.busy.wait(SECONDS)
    for seed in range(2, 6):
        service.submit(*prepare([png(seed)]), answers.put)
    gate.open.set()
    for _ in range(5):
        assert isinstance(answers.get(timeout=SECONDS), np.ndarray)
    assert gate.groups == [1, 4]


def test_of_a_group_no_more_rows_stay_on_the_device_than_may(live_build: Path, prepare, monkeypatch) -> None:
    memory, answers, gate = WatchedMemory(), queue.Queue(), Gate(monkeypatch)
    requests = [prepare([png(seed)]) for seed in range(4)]
    gate.open.set()
    expected = [VisionEncoder(live_build / "engines", 1).encode(*request) for request in requests]
    gate.open.clear()
    monkeypatch.setattr(vision_encoder, "open_rows_memory", lambda: memory)
    monkeypatch.setattr(vision_encoder, "group_bytes", lambda config: expected[0].nbytes)
    service = VisionService(BuildPaths(live_build), threads=1, on_device=True)
    gate.busy.clear()
    service.submit(*requests[0], answers.put)
    assert gate.busy.wait(SECONDS)
    for request in requests[1:]:
        service.submit(*request, answers.put)
    gate.open.set()
    found = [answers.get(timeout=SECONDS) for _ in requests]
    service.close()
    assert [isinstance(rows, DeviceRows) for rows in found] == [True, True, False, False]
    for rows, array in zip(found, expected, strict=True):
        rows = rows.to_host() if isinstance(rows, DeviceRows) else rows
        np.testing.assert_allclose(rows, array, rtol=1e-4, atol=1e-4)
    del found
    assert memory.blocks == 0


def test_full_queue_is_refused_but_not_for_text(service: VisionService, prepare, monkeypatch) -> None:
    gate, answers, request = Gate(monkeypatch), queue.Queue(), prepare([png(1, 32, 32)])
    service.submit(*request, answers.put)
    assert gate.busy.wait(SECONDS)
    for _ in range(LIMITS["queue"]):
        service.submit(*request, answers.put)
    with pytest.raises(Overloaded, match="requests with images are waiting"):
        service.submit(*request, answers.put)
    gate.open.set()
    service.submit(*prepare([]), answers.put)
    for _ in range(LIMITS["queue"] + 2):
        assert isinstance(answers.get(timeout=SECONDS), np.ndarray)


def test_wrong_patches_are_refused_before_they_are_queued(service: VisionService, prepare) -> None:
    patches, grids = prepare([png(1)])
    with pytest.raises(InvalidRequest, match="patches"):
        service.submit(patches[:-1], grids, lambda rows: None)


def test_failing_request_fails_alone(service: VisionService, prepare, monkeypatch) -> None:
    poisoned = prepare([png(66, 32, 32)])
    encode_batch = VisionEncoder.encode_batch

    def fragile(self, requests):
        if any(patches is poisoned[0] for patches, _ in requests):
            raise MemoryError("no memory for this one")
        return encode_batch(self, requests)

    monkeypatch.setattr(VisionEncoder, "encode_batch", fragile)
    answers: queue.Queue = queue.Queue()
    requests = {"good": prepare([png(1)]), "bad": poisoned, "also good": prepare([png(2)])}
    for name, request in requests.items():
        service.submit(*request, lambda rows, name=name: answers.put((name, rows)))
    rows = dict(answers.get(timeout=SECONDS) for _ in requests)
    assert isinstance(rows["bad"], MemoryError)
    assert all(isinstance(rows[name], np.ndarray) for name in ("good", "also good"))


def test_close_finishes_what_was_submitted(live_build: Path, prepare) -> None:
    service, answers = VisionService(BuildPaths(live_build), threads=1), []
    for seed in range(3):
        service.submit(*prepare([png(seed)]), answers.append)
    service.close()
    assert [rows.shape[1] for rows in answers] == [64] * 3
