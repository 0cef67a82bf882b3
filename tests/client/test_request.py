"""A question becomes the server's inputs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from client.errors import BadRequest
from client.request import SAMPLING, request_inputs, to_json
from triton_repo.repository import REQUEST

NUMPY_TYPES = {"STRING": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}


def test_text_is_asked_about_all_files(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"second")
    inputs = request_inputs("What?", [b"first", str(tmp_path / "b.png"), tmp_path / "b.png"], [b"film"], {}, True)
    assert json.loads(inputs["messages"].item()) == [{"role": "user", "content": [
        {"type": "image"}, {"type": "image"}, {"type": "image"}, {"type": "video"}, {"type": "text", "text": "What?"}]}]
    assert inputs["images"].tolist() == [b"first", b"second", b"second"]
    assert inputs["videos"].tolist() == [b"film"]
    assert inputs["stream"].tolist() == [True]


def test_messages_go_as_they_are() -> None:
    messages = [{"role": "system", "content": "Antworte kurz."}, {"role": "user", "content": "你好"}]
    inputs = request_inputs(messages, [], [], {}, False)
    assert json.loads(inputs["messages"].item()) == messages
    assert set(inputs) == {"messages", "stream"}


def test_inputs_have_the_types_that_the_server_declares() -> None:
    sampling = {"max_tokens": 1, "temperature": 1, "top_p": 0.5, "top_k": 2, "seed": 2**62, "repetition_penalty": 1.5,
                "stop": "end"}
    inputs = request_inputs("x", [b"i"], [b"v"], sampling, True)
    declared = {tensor.name: tensor for tensor in REQUEST}
    assert set(inputs) == set(declared) - {"prompt"}
    for name, array in inputs.items():
        assert array.dtype == NUMPY_TYPES[declared[name].dtype], name
        assert array.ndim == 1
    assert inputs["seed"].tolist() == [2**62]


def test_every_sampling_parameter_of_the_server_is_there() -> None:
    assert set(SAMPLING) == {tensor.name for tensor in REQUEST} - {"messages", "prompt", "images", "videos", "stream"}


def test_parameters_left_out_are_up_to_the_server() -> None:
    assert set(request_inputs("x", [], [], dict.fromkeys(SAMPLING), True)) == {"messages", "stream"}


def test_json_fields_are_the_inputs() -> None:
    sampling = {"max_tokens": 3, "stop": ["a", "ü"]}
    fields = to_json(request_inputs("x", [b"\x00\xff", "data:image/png;base64,AA=="], [], sampling, False))
    assert (fields["max_tokens"], fields["stop"], fields["stream"]) == (3, ["a", "ü"], False)
    first, second = fields["images"]
    assert base64.b64decode(first.partition(",")[2]) == b"\x00\xff"
    assert second == "data:image/png;base64,AA=="
    assert json.loads(json.dumps(fields)) == fields


def test_bytes_that_end_in_zeros_keep_them() -> None:
    # numpy's own byte strings would drop them.
    assert request_inputs("x", [b"a\x00\x00"], [], {}, True)["images"].tolist() == [b"a\x00\x00"]


@pytest.mark.parametrize("sampling,message", [
    ({"temprature": 1}, "unknown parameter 'temprature': the parameters are max_tokens"),
    ({"max_tokens": 2**40}, "max_tokens is 1099511627776"),
    ({"top_k": 2.5}, r"top_k is 2\.5, expected a value of type int32"),
    ({"max_tokens": True}, "max_tokens is True"),
    ({"temperature": "hot"}, "temperature is 'hot', expected a value of type float32"),
])
def test_wrong_parameter_is_refused(sampling: dict, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        request_inputs("x", [], [], sampling, True)


def test_missing_file_is_named() -> None:
    with pytest.raises(BadRequest, match=r"nowhere\.png cannot be read: No such file"):
        request_inputs("x", ["nowhere.png"], [], {}, True)
