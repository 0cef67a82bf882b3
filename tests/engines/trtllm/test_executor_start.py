"""How TensorRT-LLM's executor is started: on one GPU in this process, on several through workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engines.trtllm.executor.start import ExecutorOptions, start_executor
from engines.trtllm.record import TrtllmRecord
from export.trtllm.parallel import Parallelism
from qwen3vl.errors import ArtifactError
from tests.engines.trtllm.executor_standin import values
from tests.engines.trtllm.executor_standin.deployment import install, make_build


@pytest.fixture
def engine(random_build: Path, random_checkpoint: Path, tmp_path: Path):
    def make(**options) -> tuple[Path, TrtllmRecord]:
        folder = make_build(tmp_path / "build", random_build, random_checkpoint, **options) / "engines/trtllm"
        return folder, TrtllmRecord.load(folder)

    return make


def test_one_gpu_runs_in_this_process(engine, monkeypatch) -> None:
    install(monkeypatch)
    executor = start_executor(*engine(), ExecutorOptions(cache_fraction=0.5, max_num_tokens=64))
    config = executor.config
    executor.shutdown()
    assert config.parallel_config is None and config.enable_chunked_context
    assert config.mm_embedding_offloading is False and config.max_num_tokens == 64
    assert config.kv_cache_config.enable_block_reuse and config.kv_cache_config.free_gpu_memory_fraction == 0.5


def test_several_gpus_are_workers_of_an_orchestrator(engine, monkeypatch, tmp_path) -> None:
    install(monkeypatch)
    folder, record = engine(parallelism=Parallelism(tp=2, pp=2))
    with pytest.raises(ArtifactError, match="executorWorker does not exist, which runs an engine on each of 4 GPUs"):
        start_executor(folder, record, ExecutorOptions(0.5))
    worker = tmp_path / "tensorrt_llm/bin/executorWorker"
    worker.parent.mkdir(parents=True)
    worker.write_text("")
    monkeypatch.setattr(sys.modules["tensorrt_llm"], "__file__", str(tmp_path / "tensorrt_llm/__init__.py"))
    executor = start_executor(folder, record, ExecutorOptions(0.5))
    executor.shutdown()
    parallel = executor.config.parallel_config
    assert parallel.communication_mode is values.CommunicationMode.ORCHESTRATOR
    assert parallel.orchestrator_config.is_orchestrator
    assert parallel.orchestrator_config.worker_executable_path == str(worker)


def test_a_missing_engine_is_named(engine, monkeypatch) -> None:
    install(monkeypatch)
    folder, record = engine(parallelism=Parallelism(tp=2))
    (folder / "rank1.engine").unlink()
    with pytest.raises(ArtifactError, match=r"rank1\.engine does not exist"):
        start_executor(folder, record, ExecutorOptions(0.5))


def test_another_version_is_refused(engine, monkeypatch) -> None:
    install(monkeypatch, "1.3.0rc21")
    with pytest.raises(ArtifactError, match=r"1\.3\.0rc21"):
        start_executor(*engine(), ExecutorOptions(0.5))


def test_where_it_is_not_installed_the_container_is_named(engine, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(ArtifactError, match="trtllm-python-py3"):
        start_executor(*engine(), ExecutorOptions(0.5))


def test_an_engine_that_does_not_load_says_why(engine, monkeypatch) -> None:
    install(monkeypatch)
    folder, record = engine()
    (folder / "rank0.engine").write_text("no engine")
    with pytest.raises(ArtifactError, match=r"cannot load the engines in .*compute capability 9.0"):
        start_executor(folder, record, ExecutorOptions(0.5))
    assert "LD_PRELOAD" not in os.environ
