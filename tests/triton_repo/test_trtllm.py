"""The target `trtllm` behind the same repository, ensemble and client, on a stand-in for TensorRT-LLM's executor."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tests
from client.cli import main
from engines.decoder_batcher import DecoderSettings
from engines.fidelity.cases import picture
from engines.onnxruntime.vision_encoder import VisionEncoder
from engines.trtllm.executor.batcher import ExecutorBatcher
from export.trtllm.parallel import Parallelism
from qwen3vl.errors import ArtifactError
from qwen3vl.processor import Processor
from tests.engines.support import make_request
from tests.engines.trtllm.executor_standin.deployment import install, make_build
from tests.support.server import LiveServer
from tests.support.talking_checkpoint import CHINESE
from tests.triton_repo.test_decoder import RecordingReply, submit
from triton_repo.build_paths import BuildPaths
from triton_repo.compose import compose
from triton_repo.decoder import DecoderService
from triton_repo.gpu_arguments import gpu_arguments
from triton_repo.repo_check import check_repository
from triton_repo.repository import Options
from triton_repo.roles import Role

SLOTS = 2
OPTIONS = Options(slots=SLOTS, threads=1, preprocess_instances=1, whole_instances=1)
# `import tensorrt_llm` in the decoder's process.
STANDIN_PACKAGE = f'''
import sys
sys.path.insert(0, {str(Path(tests.__file__).parent.parent)!r})
import pytest
from tests.engines.trtllm.executor_standin.deployment import install
install(pytest.MonkeyPatch())
'''


@pytest.fixture(scope="module")
def build(live_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trtllm") / "build"
    make_build(folder, live_build, live_build.parent / "checkpoint", slots=SLOTS, prompt_tokens=800, total_tokens=1200,
               visual_tokens=256)
    compose(folder, OPTIONS)
    return folder


def test_the_repository_is_sound_and_has_the_engine_s_lengths(build: Path) -> None:
    assert check_repository(build / "triton_repo") == []
    limits = BuildPaths(build).limits()
    assert (limits.prompt_tokens, limits.total_tokens) == (800, 1200)


@pytest.mark.parametrize(("options", "limits", "message"), [
    (Options(slots=SLOTS + 1), {}, "slots is 3, expected at most 2"),
    (OPTIONS, {"total_tokens": 1201}, "total_tokens is 1201, expected at most 1200"),
    (OPTIONS, {"prompt_tokens": 801}, "prompt_tokens is 801, expected at most 800"),
])
def test_what_the_engine_was_not_built_for_is_refused(build: Path, options, limits, message) -> None:
    with pytest.raises(ArtifactError, match=message):
        compose(build, options, limits)


def test_a_missing_engine_is_named(live_build: Path, tmp_path: Path, capsys) -> None:
    make_build(tmp_path, live_build, live_build.parent / "checkpoint", slots=SLOTS, parallelism=Parallelism(tp=2))
    compose(tmp_path, OPTIONS)
    (tmp_path / "engines/trtllm/rank1.engine").unlink()
    assert main(["repo", "check", str(tmp_path)]) == 1
    assert "rank1.engine: the engine is missing" in capsys.readouterr().err


def test_the_server_takes_no_memory_on_the_workers_gpus(build: Path, live_build: Path, tmp_path: Path) -> None:
    make_build(tmp_path, live_build, live_build.parent / "checkpoint", slots=SLOTS, parallelism=Parallelism(tp=2))
    compose(tmp_path, OPTIONS)
    assert gpu_arguments(BuildPaths(tmp_path), Role.BOTH)[2:] == [
        "--cuda-memory-pool-byte-size=0:0", "--cuda-memory-pool-byte-size=1:0"]
    for folder, role in ((tmp_path, Role.ENCODE), (build, Role.BOTH), (live_build, Role.BOTH)):
        assert gpu_arguments(BuildPaths(folder), role) == []


def test_the_decoder_service_answers_by_the_executor(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = install(monkeypatch)
    service = DecoderService(BuildPaths(build), DecoderSettings(SLOTS, cache_fraction=0.6), lambda stats: None)
    assert isinstance(service._batcher, ExecutorBatcher)
    assert made[0].config.kv_cache_config.free_gpu_memory_fraction == 0.6
    last = submit(service, CHINESE).last()
    service.close()
    assert (last.finish_reason, last.completion_tokens) == ("stop", 10)


def test_a_server_gives_the_same_answers(build: Path, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Path(shutil.copytree(build, build.parent / "served"))
    package = served / "triton_repo/decoder/1/tensorrt_llm"
    package.mkdir()
    (package / "__init__.py").write_text(STANDIN_PACKAGE)
    with LiveServer(served).running() as server:
        expected = live_server.chat().ask("What now?", max_tokens=20)
        for chat in (server.chat(), server.chat("http")):
            assert chat.ask("What now?", max_tokens=20) == expected
        seen = server.chat().ask("What is it?", [picture(96, 64, 1)], max_tokens=20)
        metrics = server.wait_for(lambda metrics: metrics["finished_requests"] == 3)
    assert metrics["failed_requests"] == 0
    assert (seen.usage.completion_tokens, seen.text) == in_process(build, monkeypatch)


def in_process(build: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """The number of tokens and the text of the picture's answer, without a server."""
    install(monkeypatch)
    processor = Processor.from_checkpoint(build / "processor")
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    inputs = processor(messages=[{"role": "user", "content": content}], images=[picture(96, 64, 1)])
    request = make_request(VisionEncoder(build / "engines"), inputs, max_tokens=20, stream=False)
    service, reply = DecoderService(BuildPaths(build), DecoderSettings(SLOTS), lambda stats: None), RecordingReply()
    service.submit(request, reply)
    last = reply.last()
    service.close()
    text = b"".join(processor.tokenizer.token_bytes[token] for token in last.token_ids)[:last.text_bytes]
    return last.completion_tokens, text.decode("utf-8", "replace")
