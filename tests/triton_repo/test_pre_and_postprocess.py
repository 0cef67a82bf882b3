"""The first and the last step without a server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qwen3vl.config import ModelConfig
from qwen3vl.errors import InvalidRequest
from qwen3vl.processor import Processor
from qwen3vl.sampling import SamplingParams
from qwen3vl.tokenizer import Tokenizer
from tests.support.pictures import gif, png
from triton_repo.build_paths import BuildPaths
from triton_repo.patch_rows import patches_of_rows
from triton_repo.postprocess import Postprocessor
from triton_repo.preprocess import Preprocessor, sampling_params
from triton_repo.repository import ANSWER, PROMPT, REQUEST


def strings(*values: bytes) -> np.ndarray:
    return np.array(values, np.object_)


@pytest.fixture(scope="module")
def preprocess(live_build: Path) -> Preprocessor:
    return Preprocessor(BuildPaths(live_build))


@pytest.fixture(scope="module")
def postprocess(live_build: Path) -> Postprocessor:
    return Postprocessor(BuildPaths(live_build))


def test_prompt_is_prepared_as_the_processor_does(preprocess: Preprocessor, live_build: Path) -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What?"}]}]
    tensors = preprocess({"messages": strings(json.dumps(messages).encode()), "images": strings(png(1)),
                          "videos": strings(gif(2)), "max_tokens": np.array([7], np.int32)}, {})
    expected = Processor.from_checkpoint(live_build / "processor", BuildPaths(live_build).limits())(
        messages, None, [png(1)], [gif(2)])
    for name in ("token_ids", "position_ids", "grids"):
        np.testing.assert_array_equal(tensors[name], getattr(expected, name))
    vision = ModelConfig.from_checkpoint(live_build / "processor").vision
    patches = patches_of_rows(tensors["patches"], tensors["rows_per_patch"], tensors["grids"], vision)
    np.testing.assert_array_equal(patches, expected.patches)
    # The image's patches have one row, those of the video as many as a patch has frames.
    counts = np.prod(expected.grids, axis=1)
    assert len(tensors["patches"]) == counts[0] + vision.temporal_patch_size * counts[1]
    assert tensors["rope_delta"].tolist() == [expected.rope_delta]
    assert SamplingParams.from_json(tensors["sampling"].item()) == SamplingParams(max_tokens=7)


def test_tensors_have_the_declared_types_and_shapes(preprocess: Preprocessor) -> None:
    tensors = preprocess({"prompt": strings(b"Hello")}, {})
    kinds = {"INT32": np.int32, "STRING": np.object_}
    for declared in PROMPT:
        array = tensors[declared.name]
        assert array.dtype == kinds[declared.dtype], declared.name
        assert len(array.shape) == len(declared.dims)
        assert all(size in (-1, actual) for size, actual in zip(declared.dims, array.shape, strict=True))
    assert (tensors["patches"].dtype, tensors["patches"].shape[0]) == (np.uint8, 0)
    assert (tensors["grids"].dtype, tensors["grids"].shape) == (np.int32, (0, 3))


def test_every_sampling_input_arrives() -> None:
    params = sampling_params({
        "max_tokens": np.array([5], np.int32), "temperature": np.array([0.5], np.float32),
        "top_p": np.array([0.25], np.float32), "top_k": np.array([3], np.int32), "seed": np.array([2**60], np.int64),
        "repetition_penalty": np.array([1.5], np.float32), "stop": strings("结束".encode(), b"end"),
        "stream": np.array([False])})
    assert params == SamplingParams(5, 0.5, 0.25, 3, 2**60, 1.5, ("结束", "end"), False)


def test_sampling_inputs_are_those_declared() -> None:
    declared = {tensor.name for tensor in REQUEST}
    assert declared - {"messages", "prompt", "images", "videos"} == set(SamplingParams.__dataclass_fields__)


def test_absent_sampling_inputs_are_the_defaults() -> None:
    assert sampling_params({}) == SamplingParams()


@pytest.mark.parametrize("inputs,parameters,message", [
    ({"messages": strings(b"{")}, {}, "messages is not valid JSON"),
    ({"messages": strings(b"[" * 100_000)}, {}, "messages is not valid JSON"),
    ({"messages": strings(b"\xff")}, {}, "messages is not valid UTF-8"),
    ({"prompt": strings(b"x"), "stop": strings(b"\xff")}, {}, r"stop\[0\] is not valid UTF-8"),
    ({"prompt": strings(b"x")}, {"tempo": 1, "heat": 2}, "unknown parameter 'heat', 'tempo': the inputs are messages"),
    ({"prompt": strings(b"x"), "temperature": np.array([np.inf], np.float32)}, {}, "temperature is inf"),
    ({}, {}, "neither messages and prompt"),
])
def test_what_cannot_be_served_is_refused(preprocess: Preprocessor, inputs: dict, parameters: dict,
                                          message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        preprocess(inputs, parameters)


def test_emission_becomes_text(postprocess: Postprocessor, live_build: Path) -> None:
    tokens = Tokenizer.from_checkpoint(live_build / "processor").encode_text("Größe: 大 🙂")
    size = len("Größe: 大 🙂".encode())
    answer = postprocess({"token_ids": np.array(tokens, np.int32), "text_bytes": np.array([size], np.int32),
                          "finish_reason": strings(b"length"), "token_counts": np.array([3, 9], np.int32)})
    assert answer["text"].item().decode() == "Größe: 大 🙂"
    assert answer["finish_reason"].item() == b"length"
    assert json.loads(answer["usage"].item()) == {"prompt_tokens": 3, "completion_tokens": 9}
    assert set(answer) == {tensor.name for tensor in ANSWER}


def test_stop_string_cuts_the_last_token(postprocess: Postprocessor) -> None:
    answer = postprocess({"token_ids": np.array([*b"abc"], np.int32), "text_bytes": np.array([2], np.int32),
                          "finish_reason": strings(b"stop"), "token_counts": np.array([1, 3], np.int32)})
    assert answer["text"].item() == b"ab"


def test_emission_without_tokens_is_empty_text(postprocess: Postprocessor) -> None:
    answer = postprocess({"token_ids": np.empty(0, np.int32), "text_bytes": np.array([0], np.int32),
                          "finish_reason": strings(b"cancelled"), "token_counts": np.array([4, 0], np.int32)})
    assert (answer["text"].item(), answer["finish_reason"].item()) == (b"", b"cancelled")
