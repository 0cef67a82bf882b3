"""A static check of a model repository and the build around it: what is wrong is named before any server starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import TYPE_INVALID
from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonConfig

from engines.description import EngineDescription
from engines.onnxruntime import cuda_record
from engines.onnxruntime.session import ENGINE_FILE
from engines.tensorrt import record as tensorrt_record
from engines.trtllm import record as trtllm_record
from engines.trtllm.executor.start import engine_files
from export.build_folder import BuildFolder
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError, CheckpointError
from triton_repo.build_paths import BuildPaths
from triton_repo.config_pbtxt import CONFIG_FILE, dtype_name, read_config
from triton_repo.ensemble_check import Problem, check_ensemble
from triton_repo.patch_rows import row_bytes
from triton_repo.repository import ENCODE, ENSEMBLE, MODEL_VERSION, WHOLE, entry_queue
from triton_repo.roles import Role
from triton_repo.split.pairing import rows_parameters

SERVING_MODELS = ("preprocess", "vision_encoder", "decoder", "postprocess", ENSEMBLE, WHOLE)
MODELS = {Role.BOTH: SERVING_MODELS, Role.LANGUAGE: SERVING_MODELS, Role.ENCODE: (ENCODE,)}
# The model that runs an engine, or whose settings tell one server's rows from another's.
ENGINE_MODELS = {Role.BOTH: {"vision_encoder": "vision_encoder", "decoder": "decoder"},
                 Role.LANGUAGE: {"decoder": "decoder"}, Role.ENCODE: {"vision_encoder": ENCODE}}
ROWS_MODELS = {Role.LANGUAGE: "vision_encoder", Role.ENCODE: ENCODE}
# Several could overtake each other and mix up the text; each that has an engine loads the weights again; visual rows
# are kept once.
SINGLE_MODELS = ("postprocess", "decoder", "vision_encoder", ENCODE)
PROCESSOR_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json", "video_preprocessor_config.json")


def require_sound(repository: Path) -> None:
    """Check a repository (see `check_repository`).

    Raises:
        ArtifactError: something is wrong; the message has a line for each problem.
    """
    if problems := check_repository(repository):
        raise ArtifactError("\n".join([f"{repository} cannot be served:", *(f"  {problem}" for problem in problems),
                                       f"run `qwen3vl compose {repository.parent}"
                                       f"{Role.of_repository(repository.name).option}`, or correct these"]))


def check_repository(repository: Path) -> list[Problem]:
    """Everything that is wrong with the repository of a build, in the order of its models.

    Args:
        repository: a folder inside a build folder, whose name tells the role (see `roles`).
    """
    role = Role.of_repository(repository.name)
    if not repository.is_dir():
        return [Problem("repository", str(repository), f"there is no such folder: run `qwen3vl compose{role.option}` "
                        "first")]
    problems: list[Problem] = []
    configs: dict[str, TritonConfig] = {}
    for name in sorted({*MODELS[role], *(folder.name for folder in repository.iterdir() if folder.is_dir())}):
        problems += _check_model(repository / name, configs)
    for config in configs.values():
        if config.platform == "ensemble":
            problems += check_ensemble(config, {name: c for name, c in configs.items() if c is not config})
    return problems + list(_check_build(role, BuildPaths(repository.parent), configs))


def _check_model(folder: Path, configs: dict[str, TritonConfig]) -> Iterator[Problem]:
    """Check one model by itself, and enter its configuration into `configs`."""
    name = folder.name
    if not folder.is_dir():
        yield Problem(name, str(folder), "the model is missing")
        return
    try:
        config = configs[name] = read_config(folder / CONFIG_FILE)
    except ArtifactError as error:
        yield Problem(name, CONFIG_FILE, str(error))
        return
    if config.name != name:
        yield Problem(name, "name", f"is {config.name!r}, expected {name!r}, the folder's name")
    version = folder / MODEL_VERSION
    if not version.is_dir():
        yield Problem(name, str(version), "the version folder is missing")
    if config.platform != "ensemble":
        yield from _check_python_model(name, config, version)
    for kind, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            yield Problem(name, kind, "there is none, expected at least one")
        for tensor in tensors:
            yield from _check_tensor(name, f"{kind}[{tensor.name!r}]", tensor, [t.name for t in tensors])


def _check_python_model(name: str, config: TritonConfig, version: Path) -> Iterator[Problem]:
    if config.backend != "python":
        yield Problem(name, "backend", f"is {config.backend!r}, expected 'python', or platform 'ensemble'")
    if version.is_dir() and not (version / "model.py").is_file():
        yield Problem(name, str(version / "model.py"), "the file is missing")
    instances = sum(group.count for group in config.instance_group)
    if name in SINGLE_MODELS and instances != 1:
        yield Problem(name, "instance_group.count", f"is {instances}, expected 1")


def _check_tensor(model: str, where: str, tensor: object, names: list[str]) -> Iterator[Problem]:
    if names.count(tensor.name) > 1:
        yield Problem(model, where, "is there more than once")
    if tensor.data_type == TYPE_INVALID:
        yield Problem(model, f"{where}.data_type", "is missing")
    if not tensor.dims or any(size == 0 or size < -1 for size in tensor.dims):
        yield Problem(model, f"{where}.dims", f"is {list(tensor.dims)}, expected sizes above 0, or -1 for any")


def _check_build(role: Role, build: BuildPaths, configs: dict[str, TritonConfig]) -> Iterator[Problem]:
    """Check the files that the models read, and that the tensors have the sizes of the engines."""
    reader = MODELS[role][0]
    try:
        build.limits()
    except ArtifactError as error:
        yield Problem(reader, str(build.limits_file), str(error))
    for file in PROCESSOR_FILES:
        if not (build.processor / file).is_file():
            yield Problem(reader, str(build.processor / file), "the file is missing: run `qwen3vl export` again")
    try:
        description = EngineDescription.load(build.engines)
        for name, model in ENGINE_MODELS[role].items():
            for engine in _engine_files(build.engines / description.folder(name)):
                if not engine.is_file():
                    yield Problem(model, str(engine), "the engine is missing: run `qwen3vl build`")
    except (ArtifactError, CheckpointError) as error:
        yield Problem(next(iter(ENGINE_MODELS[role].values())), str(build.engines), str(error))
        return
    config = description.config
    yield from _check_sizes(config, configs)
    yield from _check_queues(build, configs)
    if (model := ROWS_MODELS.get(role)) in configs:
        yield from _check_rows(role, model, configs[model], build, config)


def _engine_files(folder: Path) -> list[Path]:
    if (folder / trtllm_record.RECORD_FILE).is_file():
        return engine_files(folder, trtllm_record.TrtllmRecord.load(folder))
    if (folder / tensorrt_record.RECORD_FILE).is_file():
        return [folder / tensorrt_record.ENGINE_FILE]
    if (folder / cuda_record.RECORD_FILE).is_file() and cuda_record.CudaDecoderRecord.load(folder).kernels:
        return [folder / ENGINE_FILE, folder / cuda_record.LIBRARY_FILE]
    return [folder / ENGINE_FILE]


def _check_rows(role: Role, model: str, found: TritonConfig, build: BuildPaths,
                config: ModelConfig) -> Iterator[Problem]:
    """Check that the build is still what servers of visual rows recognise each other by."""
    try:
        expected = rows_parameters(role, BuildFolder(build.root), build, config)
    except (ArtifactError, CheckpointError) as error:
        yield Problem(model, "parameters", str(error))
        return
    for name, value in expected.items():
        if (there := found.parameters[name].string_value) != value:
            yield Problem(model, f"parameters[{name!r}]", f"is {there!r}, but the build's is {value!r}")


def _check_queues(build: BuildPaths, configs: dict[str, TritonConfig]) -> Iterator[Problem]:
    """Check that as many requests may wait to be prepared as the limit `queue` makes it."""
    try:
        expected = entry_queue(build.limits(), int(configs["decoder"].parameters["slots"].string_value))
    except (ArtifactError, KeyError, ValueError):  # named by other checks, or a server without a decoder
        return
    for name in (MODELS[Role.BOTH][0], WHOLE):
        found = configs[name].dynamic_batching.default_queue_policy.max_queue_size if name in configs else expected
        if found != expected:
            yield Problem(name, "dynamic_batching.default_queue_policy.max_queue_size",
                          f"is {found}, expected {expected}: the limit queue and the decoder's slots")


def _check_sizes(config: ModelConfig, configs: dict[str, TritonConfig]) -> Iterator[Problem]:
    for tensor, dtype, dims in (("patches", "UINT8", [-1, row_bytes(config.vision)]),
                                ("visual_rows", "FP32", [-1, config.text.hidden_size])):
        for name, model in configs.items():
            for kind, found in [("input", t) for t in model.input] + [("output", t) for t in model.output]:
                if found.name == tensor and (list(found.dims), dtype_name(found.data_type)) != (dims, dtype):
                    yield Problem(name, f"{kind}[{tensor!r}]", f"is {dtype_name(found.data_type)} {list(found.dims)}, "
                                  f"but the engines take and give {dtype} {dims}")
