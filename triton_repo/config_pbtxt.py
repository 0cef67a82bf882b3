"""`config.pbtxt` files: typed descriptions of models to Triton's own protobuf message, and text to message and back.

The message type is the one that tritonclient ships, so a misspelt field cannot be written and is found when read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonConfig

from qwen3vl.errors import ArtifactError

CONFIG_FILE = "config.pbtxt"


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model.

    Attributes:
        dtype: as in `config.pbtxt` without its prefix: "INT32", "FP32", "STRING".
        dims: sizes, -1 where any size goes.
        optional: whether a request may leave this input away.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class PythonModel:
    """A model of the Python backend.

    Attributes:
        decoupled: whether a request gets any number of responses, at any time, instead of one.
        instances: processes that serve it.
        parameters: settings that the model reads.
        queue: requests that may wait for one of them, beyond which Triton refuses more; 0 for any number.
        shell: the module of `triton_repo/shells/` that runs it; by default the one of its name.
    """

    name: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    decoupled: bool = False
    instances: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict)
    queue: int = 0
    shell: str = ""


@dataclass(frozen=True)
class Step:
    """A step of an ensemble: the model's tensor names -> the ensemble's."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Ensemble:
    name: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    steps: Sequence[Step]


def triton_config(model: PythonModel | Ensemble) -> TritonConfig:
    """The message for a model. Requests are never batched by Triton: the models group what they have at hand."""
    config = TritonConfig(name=model.name, max_batch_size=0)
    for tensor in model.inputs:
        config.input.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.dims, optional=tensor.optional)
    for tensor in model.outputs:
        config.output.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.dims)
    if isinstance(model, Ensemble):
        config.platform = "ensemble"
        for step in model.steps:
            added = config.ensemble_scheduling.step.add(model_name=step.model, model_version=-1)
            added.input_map.update(step.inputs)
            added.output_map.update(step.outputs)
        return config
    config.backend = "python"
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=model.instances)
    config.model_transaction_policy.decoupled = model.decoupled
    if model.queue:
        # Triton limits queues of its batcher only, which with a batch size of 0 hands on one request at a time.
        config.dynamic_batching.default_queue_policy.max_queue_size = model.queue
    for name, value in model.parameters.items():
        config.parameters[name].string_value = value
    return config


def to_text(config: TritonConfig) -> str:
    return text_format.MessageToString(config)


def read_config(path: Path) -> TritonConfig:
    """Read a `config.pbtxt`.

    Raises:
        ArtifactError: there is none, or it is not a model configuration; the message has line and column.
    """
    try:
        return text_format.Parse(path.read_text(), TritonConfig())
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not a model configuration: {error}") from None


def dtype_name(data_type: int) -> str:
    """TYPE_FP32 -> "FP32"."""
    return model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")


def _data_type(tensor: Tensor) -> int:
    return model_config_pb2.DataType.Value(f"TYPE_{tensor.dtype}")
