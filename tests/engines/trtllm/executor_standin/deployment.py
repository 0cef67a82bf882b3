"""A build folder for the target `trtllm` whose engine is the stand-in's, and the modules that run it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from engines.description import EngineDescription
from engines.trtllm.record import TrtllmRecord
from engines.trtllm.sizes import EngineSizes
from export.trtllm.parallel import Parallelism
from qwen3vl.config import ModelConfig
from tests.engines.trtllm.executor_standin import values
from tests.engines.trtllm.executor_standin.runtime import EngineFile, Executor

VERSION = "1.2.1"
NAMES = ("CapacitySchedulerPolicy", "CommunicationMode", "ExecutorConfig", "FinishReason", "KvCacheConfig", "ModelType",
         "MropeConfig", "OrchestratorConfig", "OutputConfig", "ParallelConfig", "PromptTuningConfig", "Request",
         "Response", "Result", "SamplingConfig", "SchedulerConfig")


def install(monkeypatch: pytest.MonkeyPatch, version: str = VERSION) -> list[Executor]:
    """Make `import tensorrt_llm` find the stand-in. Returns a list that every executor is added to."""
    made: list[Executor] = []

    class Recorded(Executor):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    package, bindings = ModuleType("tensorrt_llm"), ModuleType("tensorrt_llm.bindings")
    executor = ModuleType("tensorrt_llm.bindings.executor")
    package.__version__, package.__file__, package.bindings = version, "/nowhere/tensorrt_llm/__init__.py", bindings
    bindings.executor, executor.Executor = executor, Recorded
    for name in NAMES:
        setattr(executor, name, getattr(values, name))
    for module in (package, bindings, executor):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.13.3.9"))
    return made


def make_build(folder: Path, source: Path, checkpoint: Path, *, slots: int = 3, prompt_tokens: int = 300,
               total_tokens: int = 400, visual_tokens: int = 64, num_tokens: int = 16, dtype: str = "bfloat16",
               parallelism: Parallelism | None = None, context_logits: bool = False, **engine) -> Path:
    """Copy processor and vision encoder of a build for ONNX Runtime, and put the stand-in's engine beside them.

    Args:
        source: that build.
        checkpoint: what it was exported from.
        num_tokens: tokens of one step: longer prompts come in chunks.
        engine: more of `EngineFile`.
    """
    shutil.copytree(source / "processor", folder / "processor")
    shutil.copytree(source / "engines/vision_encoder", folder / "engines/vision_encoder")
    config = ModelConfig.from_checkpoint(checkpoint)
    EngineDescription(config, "trtllm", "bf16").save(folder / "engines/engine.json")
    parallelism = parallelism or Parallelism()
    sizes = EngineSizes(max_batch=slots, max_num_tokens=num_tokens, max_visual_tokens=visual_tokens,
                        prompt_tokens=prompt_tokens, total_tokens=total_tokens)
    levels = config.vision.deepstack_levels
    record = TrtllmRecord(VERSION, "10.13.3.9", "9.0", dtype, parallelism, sizes, config.text.vocab_size, levels,
                          config.text.hidden_size, config.text.head_dim, None, context_logits)
    target = folder / "engines/trtllm"
    target.mkdir()
    for rank in range(parallelism.world_size):
        EngineFile(str(checkpoint), dtype, slots, prompt_tokens, total_tokens, num_tokens, sizes.table_rows(1 + levels),
                   **engine).save(target / f"rank{rank}.engine")
    record.save(target / "trtllm.json")
    return folder
