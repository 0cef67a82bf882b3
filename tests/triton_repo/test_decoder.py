"""The generating step without a server, on a real engine."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engines.batching.request import Emission, GenerationRequest
from engines.decoder_batcher import DecoderSettings
from qwen3vl.errors import InvalidRequest, Overloaded
from qwen3vl.sampling import SamplingParams
from tests.support.server import ENDLESS, LIMITS
from tests.support.talking_checkpoint import CHINESE, SENTENCES
from triton_repo import decoder
from triton_repo.build_paths import BuildPaths
from triton_repo.cancellation import cancel
from triton_repo.decoder import DecoderService, merged

SECONDS = 60
SLOTS = 2


class RecordingReply:
    """Keeps what is sent; where a client is gone, answers probes as postprocess does."""

    def __init__(self, gone_from_the_start: bool = False) -> None:
        self.outputs: queue.Queue[Emission | Exception] = queue.Queue()
        self.gone, self.gone_from_the_start = False, gone_from_the_start
        self.probes = 0

    def send(self, emission: Emission) -> None:
        self.outputs.put(emission)

    def fail(self, error: Exception) -> None:
        self.outputs.put(error)

    def probe(self, probe: str) -> None:
        self.probes += 1
        if self.gone:
            cancel(probe)

    def cancelled(self) -> bool:
        return self.gone_from_the_start

    def last(self) -> Emission | Exception:
        while isinstance(output := self.outputs.get(timeout=SECONDS), Emission) and not output.finish_reason:
            pass
        return output


@pytest.fixture
def stats() -> queue.Queue:
    return queue.Queue()


@pytest.fixture
def service(live_build: Path, stats: queue.Queue):
    service = DecoderService(BuildPaths(live_build), DecoderSettings(SLOTS, threads=1), stats.put)
    yield service
    service.close()


def request(prompt: str, **sampling: object) -> GenerationRequest:
    ids = np.array([*prompt.encode()], np.int32)
    positions = np.broadcast_to(np.arange(len(ids), dtype=np.int32), (3, len(ids)))
    return GenerationRequest(ids, positions, 0, np.empty((0, 64), np.float32), SamplingParams(**sampling))


def submit(service: DecoderService, prompt: str, **sampling: object) -> RecordingReply:
    reply = RecordingReply()
    service.submit(request(prompt, **sampling), reply)
    return reply


def test_answer_comes_in_pieces_that_join_to_it(service: DecoderService) -> None:
    reply, ids = submit(service, CHINESE), []
    while True:
        emission = reply.outputs.get(timeout=SECONDS)
        ids += emission.token_ids.tolist()
        if emission.finish_reason:
            break
    assert bytes(ids).decode() == SENTENCES[CHINESE]
    assert (emission.finish_reason, emission.completion_tokens) == ("stop", 10)
    assert reply.outputs.empty()


def test_client_that_is_gone_frees_its_slot(service: DecoderService) -> None:
    replies = [submit(service, "endless", max_tokens=ENDLESS) for _ in range(SLOTS)]
    waiting = submit(service, CHINESE)
    replies[0].gone = True
    assert replies[0].last().finish_reason == "cancelled"
    assert waiting.last().finish_reason == "stop"
    assert service.stats().active_slots == SLOTS - 1
    replies[1].gone = True
    assert replies[1].last().finish_reason == "cancelled"


def test_waiting_request_whose_client_is_gone_leaves_the_queue(service: DecoderService) -> None:
    replies = [submit(service, "endless", max_tokens=ENDLESS) for _ in range(SLOTS)]
    waiting = submit(service, CHINESE)
    waiting.gone = True
    assert waiting.last().finish_reason == "cancelled"
    assert service.stats().queued == 0
    for reply in replies:
        reply.gone = True


def test_finished_requests_are_not_probed(service: DecoderService, stats: queue.Queue) -> None:
    reply = submit(service, CHINESE)
    reply.last()
    probes = reply.probes
    while not stats.empty():
        stats.get()
    for _ in range(3):  # each comes with a round of probes
        stats.get(timeout=SECONDS)
    assert reply.probes == probes


def test_client_gone_before_generation_costs_nothing(service: DecoderService) -> None:
    reply = RecordingReply(gone_from_the_start=True)
    service.submit(request("hello"), reply)
    emission = reply.outputs.get(timeout=SECONDS)
    assert (emission.finish_reason, emission.completion_tokens, len(emission.token_ids)) == ("cancelled", 0, 0)
    assert service.stats().generated_tokens == 0


def test_wrong_request_is_refused_at_once(service: DecoderService) -> None:
    error = submit(service, "x" * (LIMITS["prompt_tokens"] + 1)).last()
    assert isinstance(error, InvalidRequest)
    assert "prompt_tokens" in str(error)


@pytest.fixture
def full_service(service: DecoderService):
    """Every slot and place in the queue is taken."""
    replies = [submit(service, "endless", max_tokens=ENDLESS) for _ in range(SLOTS)]
    for reply in replies:
        reply.outputs.get(timeout=SECONDS)
    replies += [submit(service, "endless", max_tokens=ENDLESS) for _ in range(LIMITS["queue"])]
    yield service
    for reply in replies:
        reply.gone = True


def test_full_queue_is_refused_at_once(full_service: DecoderService) -> None:
    error = submit(full_service, "endless").last()
    assert isinstance(error, Overloaded)
    assert "limit" in str(error)


def test_a_refused_request_is_not_asked_after_its_refusal(full_service: DecoderService, monkeypatch) -> None:
    class StrictReply(RecordingReply):
        """Notices a call after the last and two at once: in Triton, either may crash the server."""

        def __init__(self) -> None:
            super().__init__()
            self.ended, self.wrong, self.calls = False, "", threading.Lock()

        def fail(self, error: Exception) -> None:
            with self.alone("fail"):
                self.ended = True
                super().fail(error)

        def cancelled(self) -> bool:
            with self.alone("cancelled"):
                time.sleep(0.001)  # as long as asking Triton may take
                return False

        def probe(self, probe: str) -> None:
            with self.alone("probe"):
                super().probe(probe)

        @contextmanager
        def alone(self, name: str) -> Iterator[None]:
            if not self.calls.acquire(blocking=False):
                self.wrong = f"{name} while another call went on"
                yield
                return
            if self.ended:
                self.wrong = f"{name} after the last"
            yield
            self.calls.release()

    monkeypatch.setattr(decoder, "PROBE_SECONDS", 0)  # probes all the time
    replies = [StrictReply() for _ in range(300)]
    for reply in replies:
        full_service.submit(request("hello"), reply)
    for reply in replies:
        assert isinstance(reply.last(), Overloaded)
    assert {reply.wrong for reply in replies} == {""}


def test_reply_that_cannot_send_is_cancelled(service: DecoderService) -> None:
    class BrokenReply(RecordingReply):
        def send(self, emission: Emission) -> None:
            raise ConnectionError("gone")

    service.submit(request("endless", max_tokens=ENDLESS), BrokenReply())
    assert submit(service, CHINESE).last().finish_reason == "stop"
    for _ in range(SLOTS):
        submit(service, CHINESE).last()
    assert service.stats().cancelled == 1


def test_close_tells_unfinished_requests(live_build: Path) -> None:
    service = DecoderService(BuildPaths(live_build), DecoderSettings(SLOTS, threads=1), lambda stats: None)
    reply = submit(service, "endless", max_tokens=ENDLESS)
    service.close()
    assert isinstance(reply.last(), Overloaded)


def emission(ids: list[int], reason: str = "", text_bytes: int | None = None) -> Emission:
    return Emission(np.array(ids, np.int32), len(ids) if text_bytes is None else text_bytes, reason, 5, len(ids))


def test_piled_up_emissions_are_joined_for_each_request() -> None:
    error = ValueError("no")
    joined = dict(merged([("a", emission([1, 2])), ("b", emission([7])), ("a", emission([3], "stop", 0)),
                          ("b", error)]))
    assert joined["a"].token_ids.tolist() == [1, 2, 3]
    assert (joined["a"].text_bytes, joined["a"].finish_reason, joined["a"].completion_tokens) == (2, "stop", 1)
    assert joined["b"] is error
