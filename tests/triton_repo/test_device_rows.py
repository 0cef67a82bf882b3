"""Visual rows that stay on a GPU between two models of a real tritonserver.

The GPU is emulated (`tests.support.emulated_gpu`), for the server, its Python backend and this project's code alike:
memory of the host that processes share as CUDA's. So this shows who copies what to where, who may read it and until
when, and that all of it is given back. It shows nothing of a real driver, of streams, or of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.answer import Answer
from client.errors import BadRequest
from tests.support.emulated_gpu import EmulatedGpu, compute_on_the_host_in, emulate
from tests.support.pictures import gif, png
from tests.support.server import ENDLESS, LIMITS, SLOTS, LiveServer
from triton_repo import device_rows
from triton_repo.compose import compose
from triton_repo.config_pbtxt import read_config
from triton_repo.repo_check import check_repository
from triton_repo.repository import Options
from triton_repo.server import ServerFailed

# Its rows, by the test's model: 64 tokens, 4 rows of 64 float32 each.
LARGE, LARGE_BYTES = png(7, 256, 256), 64 * 4 * 64 * 4
# Text, images and videos.
Question = tuple[str, list[bytes], list[bytes]]
QUESTIONS = [("what?", [png(1)], []), ("and these?", [png(2, 96, 64), png(3)], []), ("words alone", [], []),
             ("moves?", [], [gif(4)]), ("large?", [LARGE], [])]


@contextmanager
def serving(build: Path, gpu: EmulatedGpu, place: str, monkeypatch: pytest.MonkeyPatch,
            **environment: str) -> Iterator[LiveServer]:
    compose(build, Options(slots=SLOTS, threads=1, whole_instances=2, visual_rows=place), LIMITS)
    compute_on_the_host_in(build)
    with monkeypatch.context() as patch:
        for name, value in {"LD_PRELOAD": str(gpu.library), **environment}.items():
            patch.setenv(name, value)
        server = LiveServer(build)
    with server.running():
        yield server


def answers(server: LiveServer, questions: Sequence[Question] = QUESTIONS) -> list[str]:
    chat = server.chat()
    return [chat.ask(text, images=images, videos=videos, max_tokens=8).text for text, images, videos in questions]


def answered(server: LiveServer, questions: Sequence[Question] = QUESTIONS) -> dict[str, float]:
    """The metrics once all questions are answered."""
    return server.wait_for(lambda values: values["finished_requests"] == len(questions))


@pytest.fixture(scope="module")
def through_host(cuda_build: Path, emulated_driver: Path,
                 tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, int]]:
    """Answers where rows go through the host's memory, and what was copied for them."""
    with pytest.MonkeyPatch.context() as patch:
        gpu = emulate(emulated_driver, tmp_path_factory.mktemp("through_host"), patch)
        with serving(cuda_build, gpu, "host", patch) as server:
            found, metrics = answers(server), answered(server)
            assert metrics["host_row_bytes"] > LARGE_BYTES and metrics["device_row_bytes"] == 0
            return found, gpu.counts()


@pytest.fixture
def expected(through_host) -> list[str]:
    return through_host[0]


def test_answers_are_the_same_and_rows_never_leave_the_gpu(cuda_build, emulated_gpu, monkeypatch, through_host):
    expected, before = through_host
    with serving(cuda_build, emulated_gpu, "device", monkeypatch) as server:
        assert answers(server) == expected
        metrics, counts = answered(server), emulated_gpu.counts()
        assert metrics["host_row_bytes"] == 0 and metrics["device_row_bytes"] > LARGE_BYTES
        rows = metrics["device_row_bytes"]
        # By the vision encoder's process, the server's, the decoder's twice, and where frames are joined.
        assert counts["within"] - before["within"] >= 4 * rows
        # Steps and chunks take what they took before, give or take a chunk; no rows came with them.
        assert abs(counts["to_device"] - (before["to_device"] - rows)) < rows / 8


def test_many_requests_at_once_and_some_that_fail_or_are_gone_leave_no_memory_behind(cuda_build, emulated_gpu,
                                                                                    monkeypatch):
    def ask(server: LiveServer, number: int) -> Answer | None:
        if number % 5 == 1:  # gone before its first token, or after some
            with server.chat().stream("what?", images=[LARGE], max_tokens=ENDLESS) as deltas:
                if number % 2:
                    next(deltas)
                deltas.cancel()
            return None
        if number % 5 == 2:
            with pytest.raises(BadRequest):
                server.chat().ask("broken", images=[LARGE, b"no picture"], max_tokens=4)
            return None
        return server.chat().ask("what?", images=[png(number % 3), LARGE], max_tokens=16)

    # Far less than all rows together, so that what is not given back is missed.
    monkeypatch.setattr(device_rows, "pool_bytes", lambda config: 12 * LARGE_BYTES)
    with serving(cuda_build, emulated_gpu, "device", monkeypatch) as server:
        ask(server, 0)
        server.wait_for(lambda values: values["finished_requests"] == 1)
        before = emulated_gpu.counts()["held"]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: ask(server, number), range(60)))
        assert all(found[number] == found[0] for number in range(0, 60, 15)) and found[0].usage.completion_tokens > 0
        idle = server.wait_for(lambda values: values["decoder_active_slots"] + values["decoder_queued_requests"] == 0)
        ask(server, 0)
        after = server.wait_for(lambda values: values["device_row_bytes"] > idle["device_row_bytes"])
        assert after["host_row_bytes"] == idle["host_row_bytes"]
        # A step of all slots frees what tables prompts left in theirs that were gone before they were through.
        with ThreadPoolExecutor(SLOTS) as pool:
            list(pool.map(lambda number: server.chat().ask("words", max_tokens=32), range(2 * SLOTS)))
        assert emulated_gpu.counts()["held"] == before
        server.process.check()


def test_what_does_not_fit_the_pool_goes_through_the_host(cuda_build, emulated_gpu, monkeypatch, expected):
    monkeypatch.setattr(device_rows, "pool_bytes", lambda config: LARGE_BYTES // 2)
    with serving(cuda_build, emulated_gpu, "device", monkeypatch) as server:
        assert answers(server) == expected
        metrics = answered(server)
        assert metrics["host_row_bytes"] == LARGE_BYTES and metrics["device_row_bytes"] > 0


def test_processes_that_cannot_share_memory_say_so_and_use_the_hosts(cuda_build, emulated_gpu, monkeypatch, expected):
    with serving(cuda_build, emulated_gpu, "device", monkeypatch, EMULATED_CUDA_REFUSES_SHARING="1") as server:
        assert answers(server) == expected
        metrics = answered(server)
        assert metrics["device_row_bytes"] == 0 and metrics["host_row_bytes"] > LARGE_BYTES
        log = server.process.log.path.read_text()
        assert log.count("visual rows go through the host's memory: another process could not open it") == 1


def test_no_server_goes_on_without_a_pool(cuda_build, emulated_gpu, monkeypatch):
    monkeypatch.setattr(device_rows, "pool_bytes", lambda config: 0)
    message = r"could not set up its pool of GPU memory[\s\S]*--visual-rows host"
    with (pytest.raises(ServerFailed, match=message),
          serving(cuda_build, emulated_gpu, "device", monkeypatch)):
        pass


def test_a_server_that_was_started_by_hand_is_told_what_it_lacks():
    assert "was started without --pinned-memory" in device_rows._problem(["tritonserver"])


def test_only_a_whole_server_with_both_engines_on_a_gpu_asks_for_it(cuda_build: Path, live_build: Path):
    def parameters(build: Path, model: str) -> dict[str, str]:
        found = read_config(build / "triton_repo" / model / "config.pbtxt").parameters
        return {name: value.string_value for name, value in found.items()}

    for place, forced in (("host", None), ("device", "no")):
        compose(cuda_build, Options(slots=SLOTS, visual_rows=place))
        assert parameters(cuda_build, "vision_encoder")["visual_rows"] == place
        assert parameters(cuda_build, "decoder").get("FORCE_CPU_ONLY_INPUT_TENSORS") == forced
        assert check_repository(cuda_build / "triton_repo") == []
    assert parameters(live_build, "vision_encoder")["visual_rows"] == "host"
    assert "FORCE_CPU_ONLY_INPUT_TENSORS" not in parameters(live_build, "decoder")
