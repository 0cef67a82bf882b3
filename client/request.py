"""What goes out: a question with its pictures and sampling parameters, as the server's inputs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from client.errors import BadRequest

# Sampling parameter -> type of the server's input.
SAMPLING = {"max_tokens": np.int32, "temperature": np.float32, "top_p": np.float32, "top_k": np.int32,
            "seed": np.int64, "repetition_penalty": np.float32, "stop": np.object_}

# A file by its path, its bytes, or a data: URL.
File = str | Path | bytes
Inputs = dict[str, np.ndarray]


def request_inputs(question: str | Sequence[Mapping], images: Iterable[File], videos: Iterable[File],
                   sampling: Mapping[str, object], stream: bool) -> Inputs:
    """The server's inputs, by name.

    Args:
        question: text, which is asked about all images and videos; or chat messages in OpenAI's format, whose parts
            {"type": "image"} and {"type": "video"} stand for the images and videos in order.
        images, videos: paths, bytes or data: URLs.
        sampling: values for names of `SAMPLING`; None leaves a parameter to the server.
        stream: whether text is wanted as it is generated.

    Raises:
        BadRequest: a file cannot be read, or a parameter is unknown or does not fit its type.
    """
    images, videos = [_file(image) for image in images], [_file(video) for video in videos]
    if isinstance(question, str):
        parts = [{"type": "image"}] * len(images) + [{"type": "video"}] * len(videos)
        question = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    inputs = {"messages": np.array([json.dumps(question).encode()], np.object_), "stream": np.array([stream])}
    for name, files in (("images", images), ("videos", videos)):
        if files:
            inputs[name] = _bytes_array(files)
    for name, value in sampling.items():
        if value is not None:
            inputs[name] = _sampling_array(name, value)
    return inputs


def to_json(inputs: Inputs) -> dict[str, object]:
    """Inputs as the JSON fields of HTTP's generate endpoints; files become data: URLs."""
    fields = {}
    for name, array in inputs.items():
        values = array.tolist()
        if name in ("images", "videos"):
            values = [_data_url(value) for value in values]
        elif array.dtype == np.object_:
            values = [value.decode() for value in values]
        fields[name] = values if name in ("images", "videos", "stop") else values[0]
    return fields


def _file(source: File) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, str) and source.startswith("data:"):
        return source.encode()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise BadRequest(f"{source} cannot be read: {error.strerror}") from None


def _sampling_array(name: str, value: object) -> np.ndarray:
    if name not in SAMPLING:
        raise BadRequest(f"unknown parameter {name!r}: the parameters are {', '.join(SAMPLING)}")
    if name == "stop":
        return _bytes_array([value.encode()] if isinstance(value, str) else [item.encode() for item in value])
    kind = SAMPLING[name]
    whole = issubclass(kind, np.integer)
    valid = isinstance(value, (int, np.integer) if whole else (int, float, np.number)) and not isinstance(value, bool)
    if not valid or (whole and not np.iinfo(kind).min <= value <= np.iinfo(kind).max):
        raise BadRequest(f"{name} is {value!r}, expected a value of type {np.dtype(kind)}")
    return np.array([value], kind)


def _bytes_array(values: list[bytes]) -> np.ndarray:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def _data_url(data: bytes) -> str:
    if data.startswith(b"data:"):
        return data.decode()
    # The server looks at the content, not at the type.
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()
