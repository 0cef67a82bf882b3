"""A TensorRT-LLM checkpoint to the engine of the decoder, GPU by GPU."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from engines.cuda_driver import Gpu
from engines.tensorrt.flavour import load_tensorrt
from engines.trtllm.build_config import build_config
from engines.trtllm.checks import load_plugin, load_tensorrt_llm
from engines.trtllm.model import configure, model_class
from engines.trtllm.options import TrtllmBuildOptions
from engines.trtllm.record import FOLDER, RECORD_FILE, TrtllmRecord, engine_name
from export.build_folder import TEMPORARY, BuildFolder, sha256
from export.trtllm.exporter import CONFIG, rank_file
from export.trtllm.exporter import FOLDER as CHECKPOINT
from export.trtllm.parallel import Parallelism
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError

CONFIG_FILE = "config.json"  # TensorRT-LLM's own, beside the engines
# Goes up when engines of the same checkpoint come out differently.
RECIPE = 1


def build_decoder(build: BuildFolder, options: TrtllmBuildOptions) -> bool:
    """Make `engines/trtllm/` from `trtllm/`; each GPU's engine is skipped if it is there already.

    `trtllm.json` comes last: a folder that has it is whole. The engines are built on the first GPU of this machine, one
    after the other, and run on GPUs of its kind.

    Returns:
        Whether anything was made now.

    Raises:
        ArtifactError: there is no TensorRT-LLM checkpoint in the folder, TensorRT-LLM, TensorRT, the plugin or the GPU
            are not as needed, an option does not fit, or TensorRT-LLM refuses the network.
    """
    checkpoint = _Checkpoint.read(build)
    sizes = options.sizes(build, checkpoint.max_length)
    trtllm = load_tensorrt_llm()
    if options.plugin is not None:
        load_plugin(options.plugin)
    record = TrtllmRecord(
        trtllm.__version__, load_tensorrt("tensorrt").__version__, Gpu().compute_capability, checkpoint.dtype,
        checkpoint.parallelism, sizes, checkpoint.vocab_size, checkpoint.levels, checkpoint.hidden_size,
        checkpoint.rotary_dim, options.plugin and options.plugin.name, options.context_logits)
    return _Build(build, options, record).run()


def engine_file(rank: int) -> str:
    """A GPU's engine, relative to the build folder."""
    return f"{FOLDER}/{engine_name(rank)}"


@dataclass(frozen=True)
class _Checkpoint:
    """What the checkpoint in `trtllm/` was made for."""

    dtype: str
    parallelism: Parallelism
    max_length: int
    vocab_size: int
    levels: int
    hidden_size: int
    rotary_dim: int

    @classmethod
    def read(cls, build: BuildFolder) -> _Checkpoint:
        path = build.path / CONFIG
        if not path.exists():
            raise ArtifactError(f"{path} does not exist: run `qwen3vl export CHECKPOINT -o {build.path} "
                                "--format trtllm` first")
        values, model = json.loads(path.read_text()), ModelConfig.from_dict(build.manifest["config"])
        mapping = values["mapping"]
        parallelism = Parallelism(mapping["tp_size"], mapping["pp_size"], mapping["moe_ep_size"])
        parallelism.check(model)
        return cls(values["dtype"], parallelism, values["max_position_embeddings"], values["vocab_size"],
                   model.vision.deepstack_levels, values["hidden_size"], values["rotary_embedding_dim"])


class _Build:
    def __init__(self, build: BuildFolder, options: TrtllmBuildOptions, record: TrtllmRecord) -> None:
        self._build, self._options, self._record = build, options, record
        self._common = {"recipe": RECIPE, "config": build.identity_of(CONFIG),
                        "plugin": options.plugin and sha256(options.plugin), "record": asdict(record)}

    def run(self) -> bool:
        build, record, ranks = self._build, self._record, range(self._record.parallelism.world_size)
        keys = {engine_file(rank): {**self._common, "weights": build.identity_of(rank_file(rank))} for rank in ranks}
        config = f"{FOLDER}/{CONFIG_FILE}"
        keys[config] = {**self._common, "of": engine_file(0)}
        record_name, record_key = f"{FOLDER}/{RECORD_FILE}", {"engines": keys}
        if not build.is_current(record_name, record_key):
            build.discard(record_name)
        for path in build.path.glob(f"{FOLDER}/*"):
            if (name := f"{FOLDER}/{path.name}") not in (*keys, record_name, self._plugin_file):
                build.discard(name)
        made = [self._copy_plugin()]
        for rank in ranks:
            files = [engine_file(rank)] if rank else [engine_file(rank), config]
            if not all(build.is_current(file, keys[file]) for file in files):
                self._build_rank(rank, {file: keys[file] for file in files})
                made.append(True)
        return build.artifact(record_name, record_key, record.save) or any(made)

    @property
    def _plugin_file(self) -> str | None:
        return self._record.plugin and f"{FOLDER}/{self._record.plugin}"

    def _copy_plugin(self) -> bool:
        """The library goes with the engine: no other is known to fit it."""
        if self._plugin_file is None:
            return False
        return self._build.artifact(self._plugin_file, {"plugin": self._common["plugin"]},
                                    lambda path: shutil.copyfile(self._options.plugin, path))

    def _build_rank(self, rank: int, files: dict[str, dict]) -> None:
        """Build one GPU's engine in a folder that nobody looks into; each of its files is moved to its place."""
        for name in files:
            self._build.discard(name)
        with _scratch(self._build.path / FOLDER) as scratch:

            def produce(path: Path, name: str) -> None:
                source = scratch / name
                if not source.exists():
                    self._engine(rank, scratch)
                source.replace(path)

            for name, key in files.items():
                self._build.artifact(name, key, partial(produce, name=Path(name).name))

    def _engine(self, rank: int, folder: Path) -> None:
        """Let TensorRT-LLM write a rank's engine, and for the first its config.json, into `folder`."""
        from tensorrt_llm.builder import build
        from tensorrt_llm.models.modeling_utils import PretrainedConfig

        record, checkpoint = self._record, str(self._build.path / CHECKPOINT)
        step = _steps(f"{engine_file(rank)} of {record.parallelism.world_size}")
        config = PretrainedConfig.from_checkpoint(checkpoint)
        configure(config, levels=record.levels, plugin=record.plugin is not None)
        settings = build_config(record.sizes, rows_per_token=record.rows_per_token,
                                context_logits=record.context_logits, timing_cache=folder / "timing.cache")
        try:
            step("reading weights")
            model = model_class().from_checkpoint(checkpoint, rank=rank, config=config)
            step(f"building with TensorRT-LLM {record.version}, TensorRT {record.tensorrt}")
            engine = build(model, settings)
            step("writing")
            engine.save(str(folder))
        except (AssertionError, RuntimeError, ValueError, OSError) as error:
            raise ArtifactError(f"TensorRT-LLM {record.version} cannot build {engine_file(rank)} "
                                f"({type(error).__name__}: {error}); its log above says more") from error
        step("done")


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    path = folder / f"{TEMPORARY}build"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _steps(title: str) -> Callable[[str], None]:
    """Prints what a long build is at, and since when."""
    started = time.monotonic()

    def step(text: str) -> None:
        print(f"{title}, {time.monotonic() - started:.0f} s: {text}", file=sys.stderr, flush=True)

    return step
