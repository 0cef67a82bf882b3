"""Rows that a language server fetches reach its decoder in the GPU's memory.

The GPU is emulated, as in `tests.triton_repo.test_device_rows`: this shows who copies what to where, and that all is
given back, nothing of a real driver or of time. The encode server computes on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.emulated_gpu import EmulatedGpu, compute_on_the_host_in
from tests.support.pictures import gif, png
from tests.support.server import LIMITS, SLOTS, LiveServer
from tests.triton_repo.test_device_rows import answered, answers
from triton_repo import device_rows
from triton_repo.compose import compose
from triton_repo.config_pbtxt import read_config
from triton_repo.repo_check import check_repository
from triton_repo.repository import Options
from triton_repo.roles import Role
from triton_repo.split.server_list import write_servers

# Its rows, by the test's model: 64 tokens, 4 rows of 64 float32 each.
LARGE, LARGE_BYTES = png(7, 256, 256), 64 * 4 * 64 * 4
QUESTIONS = [("what?", [LARGE], []), ("and these?", [png(2, 96, 64), LARGE, png(3)], []), ("words alone", [], []),
             ("moves?", [], [gif(4)]), ("again?", [LARGE], [])]


@pytest.fixture(scope="module")
def encode_server(split_build: Path) -> Iterator[LiveServer]:
    with LiveServer(split_build, Role.ENCODE).running() as server:
        yield server


@contextmanager
def serving(build: Path, encode_server: LiveServer, gpu: EmulatedGpu, place: str,
            monkeypatch: pytest.MonkeyPatch, **environment: str) -> Iterator[LiveServer]:
    """A language server on the emulated GPU."""
    options = Options(slots=SLOTS, threads=1, whole_instances=2, visual_rows=place)
    compose(build, options, LIMITS, Role.LANGUAGE)
    compute_on_the_host_in(build, Role.LANGUAGE)
    write_servers(build / "encode_servers.txt", [encode_server.grpc_url])
    with monkeypatch.context() as patch:
        for name, value in {"LD_PRELOAD": str(gpu.library), **environment}.items():
            patch.setenv(name, value)
        server = LiveServer(build, Role.LANGUAGE)
    with server.running():
        server.wait_for(lambda metrics: metrics["encode_servers_ready"] == 1)
        yield server


def test_answers_are_the_same_and_rows_are_copied_to_the_gpu_once(cuda_build, encode_server, emulated_gpu,
                                                                  monkeypatch) -> None:
    with serving(cuda_build, encode_server, emulated_gpu, "host", monkeypatch) as server:
        expected, metrics, before = answers(server, QUESTIONS), answered(server, QUESTIONS), emulated_gpu.counts()
        assert metrics["device_row_bytes"] == 0 and (rows := metrics["host_row_bytes"]) > 3 * LARGE_BYTES
    emulated_gpu.counts_file.write_bytes(bytes(emulated_gpu.counts_file.stat().st_size))
    with serving(cuda_build, encode_server, emulated_gpu, "device", monkeypatch) as server:
        assert answers(server, QUESTIONS) == expected
        metrics, counts = answered(server, QUESTIONS), emulated_gpu.counts()
        assert (metrics["host_row_bytes"], metrics["device_row_bytes"]) == (0, rows)
        server.wait_for(lambda values: values["row_cache_hits"] == 2)
        # By the server's process and the decoder's twice; from the host, once, as without.
        assert counts["within"] - before["within"] >= 3 * rows
        assert abs(counts["to_device"] - before["to_device"]) < rows / 8


def test_what_does_not_fit_the_pool_goes_through_the_host(cuda_build, encode_server, emulated_gpu,
                                                          monkeypatch) -> None:
    monkeypatch.setattr(device_rows, "pool_bytes", lambda config: LARGE_BYTES // 2)
    with serving(cuda_build, encode_server, emulated_gpu, "device", monkeypatch) as server:
        chat = server.chat()
        first, second = (chat.ask("what?", images=images, max_tokens=8) for images in ([png(2, 64, 64)], [LARGE]))
        assert first.usage.completion_tokens and second.usage.completion_tokens
        metrics = server.wait_for(lambda values: values["finished_requests"] == 2)
        assert metrics["host_row_bytes"] == LARGE_BYTES and metrics["device_row_bytes"] > 0


def test_processes_that_cannot_share_memory_say_so_and_use_the_hosts(cuda_build, encode_server, emulated_gpu,
                                                                     monkeypatch) -> None:
    with serving(cuda_build, encode_server, emulated_gpu, "device", monkeypatch,
                 EMULATED_CUDA_REFUSES_SHARING="1") as server:
        server.chat().ask("what?", images=[LARGE], max_tokens=8)
        metrics = server.wait_for(lambda values: values["finished_requests"] == 1)
        assert (metrics["device_row_bytes"], metrics["host_row_bytes"]) == (0, LARGE_BYTES)
        log = server.process.log.path.read_text()
        assert log.count("visual rows go through the host's memory: another process could not open it") == 1


def test_a_decoder_on_a_gpu_is_all_that_it_takes(cuda_build: Path, live_build: Path, split_build: Path) -> None:
    def found(build: Path, model: str) -> dict[str, str]:
        parameters = read_config(build / Role.LANGUAGE.folder / model / "config.pbtxt").parameters
        return {name: value.string_value for name, value in parameters.items()}

    for place, forced in (("host", None), ("device", "no")):
        compose(cuda_build, Options(slots=SLOTS, visual_rows=place), role=Role.LANGUAGE)
        assert found(cuda_build, "vision_encoder")["visual_rows"] == place
        assert found(cuda_build, "decoder").get("FORCE_CPU_ONLY_INPUT_TENSORS") == forced
        assert check_repository(cuda_build / Role.LANGUAGE.folder) == []
    assert device_rows.can_be_on_gpu(cuda_build / "engines", Role.LANGUAGE)
    assert not device_rows.can_be_on_gpu(cuda_build / "engines", Role.ENCODE)
    assert not device_rows.can_be_on_gpu(live_build / "engines", Role.LANGUAGE)
    assert found(split_build, "vision_encoder")["visual_rows"] == "host"
