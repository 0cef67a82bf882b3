"""Starting TensorRT-LLM's executor on a folder of engines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.trtllm.checks import load_plugin, load_tensorrt_llm
from engines.trtllm.record import TrtllmRecord, engine_name
from qwen3vl.errors import ArtifactError

if TYPE_CHECKING:
    import tensorrt_llm.bindings.executor as trtllm


@dataclass(frozen=True)
class ExecutorOptions:
    """How the engine is run.

    Attributes:
        cache_fraction: share of the GPU memory that is free once the engine is loaded which the key-value cache gets.
            The vision encoder's engine is loaded later, with the first image, and needs its part of the rest.
        reuse_cache: whether prompts that begin alike share cached keys and values.
        max_num_tokens: tokens of one step at most, longer prompts come in chunks; None for what the engine was built
            for.
    """

    cache_fraction: float
    reuse_cache: bool = True
    max_num_tokens: int | None = None


def start_executor(folder: Path, record: TrtllmRecord, options: ExecutorOptions) -> trtllm.Executor:
    """Load the engines; with several GPUs, start a process on each.

    With one GPU this process is the leader and runs the engine itself. With several it is the orchestrator: it starts a
    worker of TensorRT-LLM's for each (MPI_Comm_spawn) and sends requests to their leader, so that Triton loads the
    decoder once, in one process, whatever the number of GPUs (cpp/tensorrt_llm/executor/executorImpl.cpp).

    Args:
        folder: of the engines.
        record: what they are.

    Raises:
        ArtifactError: TensorRT-LLM is missing or of another version, an engine is missing, or it cannot be loaded.
    """
    package = load_tensorrt_llm()
    for file in engine_files(folder, record):
        if not file.is_file():
            raise ArtifactError(f"{file} does not exist: run `qwen3vl build --target trtllm` again")
    if record.plugin is not None:
        _load_plugin(folder / record.plugin, record)
    import tensorrt_llm.bindings.executor as trtllm

    config = trtllm.ExecutorConfig(
        max_beam_width=1, enable_chunked_context=True, max_num_tokens=options.max_num_tokens,
        scheduler_config=trtllm.SchedulerConfig(
            capacity_scheduler_policy=trtllm.CapacitySchedulerPolicy.GUARANTEED_NO_EVICT),
        kv_cache_config=trtllm.KvCacheConfig(enable_block_reuse=options.reuse_cache,
                                             free_gpu_memory_fraction=options.cache_fraction),
        parallel_config=_parallel_config(Path(package.__file__).parent, record),
        # Tables on the host would be handed over in parts, with the ids of visual tokens renumbered.
        mm_embedding_offloading=False)
    try:
        return trtllm.Executor(folder, trtllm.ModelType.DECODER_ONLY, config)
    except Exception as error:
        raise ArtifactError(f"TensorRT-LLM {record.version} cannot load the engines in {folder}, built on a GPU of "
                            f"compute capability {record.compute_capability}: {error}") from error


def engine_files(folder: Path, record: TrtllmRecord) -> list[Path]:
    """The engines, one for each GPU."""
    return [folder / engine_name(rank) for rank in range(record.parallelism.world_size)]


def _load_plugin(library: Path, record: TrtllmRecord) -> None:
    """Load the plugin here and, with several GPUs, have it loaded in every worker.

    Workers are programs of TensorRT-LLM's that know of no other plugins: the dynamic linker loads it for them.
    """
    load_plugin(library)
    if record.parallelism.world_size > 1:
        present = os.environ.get("LD_PRELOAD", "")
        os.environ["LD_PRELOAD"] = os.pathsep.join(filter(None, [str(library.resolve()), present]))


def _parallel_config(package: Path, record: TrtllmRecord) -> trtllm.ParallelConfig | None:
    gpus = record.parallelism.world_size
    if gpus == 1:
        return None
    import tensorrt_llm.bindings.executor as trtllm

    worker = package / "bin" / "executorWorker"
    if not worker.is_file():
        raise ArtifactError(f"{worker} does not exist, which runs an engine on each of {gpus} GPUs: install "
                            f"TensorRT-LLM {record.version} whole")
    return trtllm.ParallelConfig(
        communication_mode=trtllm.CommunicationMode.ORCHESTRATOR,
        orchestrator_config=trtllm.OrchestratorConfig(is_orchestrator=True, worker_executable_path=str(worker)))
