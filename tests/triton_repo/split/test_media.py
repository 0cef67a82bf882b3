"""What a language server's preprocess passes on, and that it looks at no pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qwen3vl.errors import InvalidRequest
from tests.support.pictures import gif, png
from triton_repo.build_paths import BuildPaths
from triton_repo.preprocess import Preprocessor
from triton_repo.repository import MEDIA, PROMPT
from triton_repo.split.media import MediaPreprocessor, media_hash, media_of

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "image"},
                                         {"type": "text", "text": "What?"}]}]


def request(images: list[bytes], videos: list[bytes], **others) -> dict[str, np.ndarray]:
    return {"messages": strings(json.dumps(MESSAGES).encode()), "images": strings(*images), "videos": strings(*videos),
            **others}


def strings(*values: bytes) -> np.ndarray:
    return np.array(values, np.object_)


@pytest.fixture(scope="module")
def whole(live_build: Path) -> Preprocessor:
    return Preprocessor(BuildPaths(live_build))


@pytest.fixture(scope="module")
def language(live_build: Path) -> MediaPreprocessor:
    return MediaPreprocessor(BuildPaths(live_build))


def test_prompt_is_that_of_a_whole_server(whole: Preprocessor, language: MediaPreprocessor) -> None:
    inputs = request([png(1), png(2, 96, 64)], [gif(3)], max_tokens=np.array([7], np.int32))
    ours, theirs = language(inputs, {}), whole(inputs, {})
    for tensor in PROMPT:
        np.testing.assert_array_equal(ours[tensor.name], theirs[tensor.name])
    media = media_of(ours)
    assert [item.grid for item in media] == [tuple(grid) for grid in theirs["grids"].tolist()]
    assert [(item.name, item.kind, item.data) for item in media] == [
        ("images[0]", "image", png(1)), ("videos[0]", "video", gif(3)), ("images[1]", "image", png(2, 96, 64))]
    assert set(ours) == {tensor.name for tensor in (*PROMPT, *MEDIA)}


def test_text_passes_on_nothing(language: MediaPreprocessor) -> None:
    tensors = language({"prompt": strings(b"Hello")}, {})
    assert media_of(tensors) == []
    assert [tensors[name].shape for name in ("media", "media_info")] == [(0,), (0,)]


def test_pixels_are_left_to_the_encode_server(whole: Preprocessor, language: MediaPreprocessor) -> None:
    inputs = request([png(1)[:-30], png(2)], [gif(3)])
    assert len(media_of(language(inputs, {}))) == 3
    with pytest.raises(InvalidRequest, match=r"images\[0\]"):
        whole(inputs, {})


def test_hash_is_of_the_file_its_kind_and_preparation() -> None:
    hashes = {media_hash(*each) for each in (("image", b"a", "p"), ("video", b"a", "p"), ("image", b"b", "p"),
                                             ("image", b"a", "q"))}
    assert {len(each) for each in hashes} == {32}
    assert len(hashes) == 4
    assert media_hash("image", b"a", "p") in hashes


def test_inline_file_has_the_hash_of_the_same_file_sent(language: MediaPreprocessor) -> None:
    import base64

    url = "data:image/png;base64," + base64.b64encode(png(1)).decode()
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "image_url", "image_url": {"url": url}}]}]
    first, second = media_of(language({"messages": strings(json.dumps(messages).encode()), "images": strings(png(1))},
                                      {}))
    assert first.hash == second.hash
