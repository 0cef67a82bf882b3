"""Typed descriptions to `config.pbtxt` and back."""

from __future__ import annotations

import pytest
from tritonclient.grpc import model_config_pb2

from qwen3vl.errors import ArtifactError
from triton_repo.config_pbtxt import (
    Ensemble,
    PythonModel,
    Step,
    Tensor,
    dtype_name,
    read_config,
    to_text,
    triton_config,
)

NUMBERS = Tensor("numbers", "INT32", (3, -1), optional=True)
TEXT = Tensor("text", "STRING", (1,))


def test_python_model_survives_the_way_through_text(tmp_path) -> None:
    model = PythonModel("speak", [NUMBERS], [TEXT], decoupled=True, instances=3, parameters={"slots": "8"})
    (tmp_path / "config.pbtxt").write_text(to_text(triton_config(model)))
    read = read_config(tmp_path / "config.pbtxt")
    assert (read.name, read.backend, read.max_batch_size) == ("speak", "python", 0)
    assert read.model_transaction_policy.decoupled
    assert [(group.count, group.kind) for group in read.instance_group] == [
        (3, model_config_pb2.ModelInstanceGroup.KIND_CPU)]
    assert read.parameters["slots"].string_value == "8"
    tensor, = read.input
    assert (tensor.name, dtype_name(tensor.data_type), list(tensor.dims), tensor.optional) == (
        "numbers", "INT32", [3, -1], True)
    assert dtype_name(read.output[0].data_type) == "STRING"


def test_ensemble_maps_the_models_names_to_its_own(tmp_path) -> None:
    ensemble = Ensemble("both", [NUMBERS], [TEXT], [Step("speak", {"numbers": "in"}, {"text": "out"})])
    (tmp_path / "config.pbtxt").write_text(to_text(triton_config(ensemble)))
    read = read_config(tmp_path / "config.pbtxt")
    step, = read.ensemble_scheduling.step
    assert (read.platform, step.model_name, step.model_version) == ("ensemble", "speak", -1)
    assert (dict(step.input_map), dict(step.output_map)) == ({"numbers": "in"}, {"text": "out"})
    assert not read.instance_group


def test_unknown_type_cannot_be_described() -> None:
    with pytest.raises(ValueError, match="TYPE_INT33"):
        triton_config(PythonModel("speak", [Tensor("numbers", "INT33", (1,))], [TEXT]))


@pytest.mark.parametrize("text,message", [
    ('name: "speak"\nbogus: 3', "2:1 .*bogus"),
    ('name: "speak" input { data_type: TYPE_INT33 }', "TYPE_INT33"),
    ('name: "speak', "config.pbtxt is not a model configuration"),
])
def test_what_is_no_configuration_is_refused_with_its_place(tmp_path, text: str, message: str) -> None:
    (tmp_path / "config.pbtxt").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_config(tmp_path / "config.pbtxt")


def test_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.pbtxt does not exist"):
        read_config(tmp_path / "config.pbtxt")
