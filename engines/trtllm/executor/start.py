"""Starting TensorRT-LLM's executor on a folder of engines."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.trtllm.executor.engine_config import TrtllmEngine
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
        return_logits: whether requests may ask for the logits of generated tokens.
    """

    cache_fraction: float = 0.8
    reuse_cache: bool = True
    return_logits: bool = False


def start_executor(engine: TrtllmEngine, options: ExecutorOptions) -> trtllm.Executor:
    """Load the engines; with several GPUs, start a process on each.

    With one GPU this process is the leader and runs the engine itself. With several it is the orchestrator: it starts a
    worker of TensorRT-LLM's for each (MPI_Comm_spawn) and sends requests to their leader, so that Triton loads the
    decoder once, in one process, whatever the number of GPUs (cpp/tensorrt_llm/executor/executorImpl.cpp).

    Raises:
        ArtifactError: TensorRT-LLM is missing or of another version, an engine is missing, or it cannot be loaded.
    """
    require_version(engine)
    for file in engine.files:
        if not file.is_file():
            raise ArtifactError(f"{file} does not exist: run `qwen3vl build --target trtllm` again")
    load_plugins(engine)
    import tensorrt_llm.bindings.executor as trtllm

    config = trtllm.ExecutorConfig(
        max_beam_width=1, enable_chunked_context=True, gather_generation_logits=options.return_logits,
        scheduler_config=trtllm.SchedulerConfig(
            capacity_scheduler_policy=trtllm.CapacitySchedulerPolicy.GUARANTEED_NO_EVICT),
        kv_cache_config=trtllm.KvCacheConfig(enable_block_reuse=options.reuse_cache,
                                             free_gpu_memory_fraction=options.cache_fraction),
        parallel_config=_parallel_config(engine),
        # Tables on the host would be handed over in parts, with the ids of visual tokens renumbered.
        mm_embedding_offloading=False)
    try:
        return trtllm.Executor(engine.folder, trtllm.ModelType.DECODER_ONLY, config)
    except Exception as error:
        raise ArtifactError(f"TensorRT-LLM {engine.version} cannot load the engines in {engine.folder}: {error}") \
            from error


def require_version(engine: TrtllmEngine) -> None:
    """Raise an ArtifactError unless the TensorRT-LLM that built the engine is installed."""
    try:
        import tensorrt_llm
    except (ImportError, OSError) as error:
        raise ArtifactError(f"TensorRT-LLM {engine.version} is needed to run {engine.folder}, but cannot be imported "
                            f"({error}): run this in the container that docs/tensorrt-llm.md names") from error
    if tensorrt_llm.__version__ != engine.version:
        raise ArtifactError(f"the engines in {engine.folder} were built by TensorRT-LLM {engine.version}, but "
                            f"{tensorrt_llm.__version__} is installed, and no version reads another's engines: install "
                            f"{engine.version}, or run `qwen3vl build --target trtllm` again")


def load_plugins(engine: TrtllmEngine) -> None:
    """Load the plugin libraries beside the engines, which register themselves with TensorRT.

    Workers are programs of TensorRT-LLM's that load no plugins of others: the dynamic linker does it for them.

    Raises:
        ArtifactError: a library cannot be loaded.
    """
    libraries = sorted(engine.folder.glob("*.so"))
    for library in libraries:
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ArtifactError(f"the plugin {library} cannot be loaded ({error}): build the engines again in this "
                                "container") from error
    if libraries and engine.world_size > 1:
        present = os.environ.get("LD_PRELOAD", "")
        os.environ["LD_PRELOAD"] = os.pathsep.join([*map(str, libraries), *filter(None, [present])])


def _parallel_config(engine: TrtllmEngine) -> trtllm.ParallelConfig | None:
    if engine.world_size == 1:
        return None
    import tensorrt_llm
    import tensorrt_llm.bindings.executor as trtllm

    worker = Path(tensorrt_llm.__file__).parent / "bin" / "executorWorker"
    if not worker.is_file():
        raise ArtifactError(f"{worker} does not exist, which runs an engine on each of {engine.world_size} GPUs: "
                            f"install TensorRT-LLM {engine.version} whole")
    return trtllm.ParallelConfig(
        communication_mode=trtllm.CommunicationMode.ORCHESTRATOR,
        orchestrator_config=trtllm.OrchestratorConfig(is_orchestrator=True, worker_executable_path=str(worker)))
