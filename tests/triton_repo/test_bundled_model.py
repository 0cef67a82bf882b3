"""The bundled checkpoint behind a real server, against the reference implementation."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from client import VisionChat
from engines.builder import build_engines
from export.exporter import export
from qwen3vl.processor import Processor
from tests.support.pictures import gif
from tests.support.reference_model import ReferenceModel
from tests.support.server import LiveServer
from triton_repo.compose import compose
from triton_repo.repository import Options

CHECKPOINT = Path(__file__).parents[2] / "models/tiny-shapes"
MAX_TOKENS = 48


def circle(colour: str, width: int, height: int) -> bytes:
    picture = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(picture).ellipse((width // 4, height // 4, width // 2, height // 4 + width // 4), fill=colour)
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


# Question, pictures, videos.
QUESTIONS = {
    "text": ("Hello!", [], []),
    "picture": ("What colour is the circle?", [circle("red", 128, 96)], []),
    "pictures of different sizes": ("In which picture is a blue circle?",
                                    [circle("red", 128, 96), circle("blue", 96, 160)], []),
    "video": ("What moved?", [], [gif(1)]),
    "picture and video": ("What do you see?", [circle("green", 96, 96)], [gif(2)]),
    "Chinese": ("图片里有什么?", [circle("blue", 96, 96)], []),
    "emoji": ("What is in the picture? Answer with emoji.", [circle("red", 96, 96)], []),
}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VisionChat]:
    build = tmp_path_factory.mktemp("tiny-shapes") / "build"
    export(CHECKPOINT, build)
    build_engines(build)
    compose(build, Options(slots=2, threads=1, preprocess_instances=1, whole_instances=1))
    with LiveServer(build).running() as server:
        yield server.chat()


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    return ReferenceModel(CHECKPOINT)


@pytest.mark.parametrize("question,pictures,videos", QUESTIONS.values(), ids=QUESTIONS)
def test_served_answer_is_the_references(chat: VisionChat, reference: ReferenceModel, question: str,
                                         pictures: list[bytes], videos: list[bytes]) -> None:
    processor = Processor.from_checkpoint(CHECKPOINT)
    parts = [{"type": "image"}] * len(pictures) + [{"type": "video"}] * len(videos)
    prepared = processor([{"role": "user", "content": [*parts, {"type": "text", "text": question}]}], None, pictures,
                         videos)
    tokens = reference.generate(prepared, MAX_TOKENS, videos=tuple(range(len(pictures), len(pictures) + len(videos))))
    ends = np.flatnonzero(np.isin(tokens, processor.tokenizer.eos_token_ids))
    answer = chat.ask(question, pictures, videos, max_tokens=MAX_TOKENS)
    assert answer.text == processor.tokenizer.decode(tokens[: ends[0]] if ends.size else tokens)
    assert answer.finish_reason == ("stop" if ends.size else "length")


@pytest.mark.parametrize("name", ["Chinese", "emoji"])
def test_characters_of_several_tokens_are_streamed_whole(chat: VisionChat, name: str) -> None:
    question, pictures, videos = QUESTIONS[name]
    deltas = list(chat.stream(question, pictures, videos, max_tokens=MAX_TOKENS))
    text = "".join(delta.text for delta in deltas)
    assert len(text.encode()) > len(text), "an answer in ASCII shows nothing"
    assert "\N{REPLACEMENT CHARACTER}" not in text
    assert text == chat.ask(question, pictures, videos, max_tokens=MAX_TOKENS).text
