"""The first step: a client's tensors to a prepared prompt. Everything a client can get wrong is found here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from qwen3vl.errors import InvalidRequest
from qwen3vl.processor import Processor, Prompt
from qwen3vl.sampling import SamplingParams
from triton_repo.build_paths import BuildPaths
from triton_repo.parameters import refuse_parameters
from triton_repo.patch_rows import rows_of_patches

SAMPLING_NAMES = tuple(field.name for field in fields(SamplingParams))


class Preprocessor:
    """Prepares requests for the model of one build."""

    def __init__(self, build: BuildPaths) -> None:
        self._processor = Processor.from_checkpoint(build.processor, build.limits())

    def __call__(self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, object]) -> dict[str, np.ndarray]:
        """Prepare one request.

        Args:
            inputs: those of `repository.REQUEST` that the client sent; STRING tensors hold bytes.
            parameters: request parameters, where HTTP puts the JSON fields that are no inputs.

        Returns:
            The tensors of `repository.PROMPT`, and those of `visual_tensors`.

        Raises:
            InvalidRequest: anything about the request that cannot be served.
        """
        refuse_parameters(parameters)
        sampling = sampling_params(inputs)
        messages = _json(_text(inputs, "messages"), "messages") if "messages" in inputs else None
        text = _text(inputs, "prompt") if "prompt" in inputs else None
        prompt = self._processor.prompt(messages, text, _files(inputs, "images"), _files(inputs, "videos"))
        return {
            "token_ids": prompt.token_ids, "position_ids": prompt.position_ids,
            "rope_delta": np.array([prompt.rope_delta], np.int32),
            "sampling": np.array([sampling.to_json().encode()], object), **self.visual_tensors(prompt),
        }

    def visual_tensors(self, prompt: Prompt) -> dict[str, np.ndarray]:
        """What vision_encoder needs, the tensors of `patch_rows`. Raises `InvalidRequest` if a file is broken."""
        pixels = self._processor.pixels(prompt, repeated=False)
        rows, rows_per_patch = rows_of_patches(pixels, self._processor.config.vision)
        return {"patches": rows, "rows_per_patch": rows_per_patch, "grids": prompt.grids}


def sampling_params(inputs: Mapping[str, np.ndarray]) -> SamplingParams:
    """The sampling parameters among a request's inputs.

    Raises:
        InvalidRequest: a value is out of range, or a stop string is not UTF-8.
    """
    values = {name: inputs[name].reshape(-1).tolist() for name in SAMPLING_NAMES if name in inputs}
    stop = [_utf8(string, f"stop[{i}]") for i, string in enumerate(values.pop("stop", []))]
    return SamplingParams(**{name: value for name, (value,) in values.items()}, stop=tuple(stop))


def _text(inputs: Mapping[str, np.ndarray], name: str) -> str:
    return _utf8(inputs[name].item(), name)


def _utf8(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name} is not valid UTF-8: {error}") from None


def _json(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} is not valid JSON: {error}; expected a list such as "
                             '[{"role": "user", "content": "Hello"}]') from None


def _files(inputs: Mapping[str, np.ndarray], name: str) -> list[bytes]:
    return inputs[name].reshape(-1).tolist() if name in inputs else []
