"""A client cannot tell a split deployment from a whole server: the same answers, the same errors."""

from __future__ import annotations

import base64
import io
import json

import pytest
import tritonclient.grpc as grpc_client
from PIL import Image
from tritonclient.utils import InferenceServerException

from client.errors import ChatError
from tests.support.pictures import gif, png
from tests.support.server import LiveServer
from tests.support.talking_checkpoint import CHINESE, EMOJI, SENTENCES
from tests.triton_repo.split.conftest import SplitDeployment
from tests.triton_repo.test_live import BAD_REQUESTS, IMAGE, Stream, post, prompt_inputs
from triton_repo.repository import ENSEMBLE, WHOLE


def jpeg(seed: int, orientation: int) -> bytes:
    """A picture that lies on its side."""
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.open(io.BytesIO(png(seed, 64, 160))).convert("RGB").save(data, "JPEG", exif=exif)
    return data.getvalue()


def inline(data: bytes) -> dict:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}


# Question (or messages), images, videos, sampling.
REQUESTS = {
    "text": ("Hello!", [], [], {}),
    "one image": ("What is it?", [png(100)], [], {}),
    "several images of different sizes": ("Which?", [png(101), png(102, 96, 160), png(103, 160, 32)], [], {}),
    "the same image twice": ("Which?", [png(104), png(105), png(104)], [], {}),
    "video": ("What moved?", [], [gif(106)], {}),
    "videos and images": ("And now?", [png(107), png(108, 96, 64)], [gif(109), gif(110, 7, 96)], {}),
    "Chinese": ("图片里有什么?", [png(111)], [], {}),
    "emoji": ("🙂🦊?", [png(112), png(113)], [], {}),
    "picture on its side": ("Which way?", [jpeg(114, 6), jpeg(115, 8), jpeg(116, 3)], [], {}),
    "sampled": ("Guess!", [png(117)], [], {"temperature": 1.0, "seed": 5, "top_p": 0.9}),
    "stopped": ("Guess!", [png(118)], [], {"stop": ["\n", " "], "temperature": 1.0, "seed": 6}),
    "inline image": ([{"role": "system", "content": "Be brief."},
                      {"role": "user", "content": [inline(png(119)), {"type": "image"},
                                                   {"type": "text", "text": "Compare."}]}], [png(120)], [], {}),
    "many turns": ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "A?"}]},
                    {"role": "assistant", "content": "A."},
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "B?"}]}],
                   [png(121), png(122)], [], {}),
}


@pytest.mark.parametrize("question,images,videos,sampling", REQUESTS.values(), ids=REQUESTS)
def test_answer_is_that_of_a_whole_server(live_server: LiveServer, split: SplitDeployment, question: str | list,
                                          images: list[bytes], videos: list[bytes], sampling: dict) -> None:
    whole, ours = (server.chat().ask(question, images, videos, max_tokens=24, **sampling)
                   for server in (live_server, split.language))
    assert ours == whole
    again = split.language.chat("http").ask(question, images, videos, max_tokens=24, **sampling)
    assert again == whole, "with rows from the cache"


@pytest.mark.parametrize("trigger", [CHINESE, EMOJI])
def test_sentences_are_streamed_whole(split: SplitDeployment, trigger: str) -> None:
    pieces = Stream(split.language, prompt_inputs(IMAGE + trigger, images=[png(130)])).rest()
    assert "".join(text for text, _, _ in pieces) == SENTENCES[trigger]
    assert pieces[-1][1] == "stop"


def test_plain_infer_and_generate(live_server: LiveServer, split: SplitDeployment) -> None:
    inputs = prompt_inputs(IMAGE + "what?", images=[png(131)], max_tokens=20)
    whole, ours = (grpc_client.InferenceServerClient(server.grpc_url).infer(WHOLE, inputs)
                   for server in (live_server, split.language))
    for name in ("text", "finish_reason", "usage"):
        assert ours.as_numpy(name).item() == whole.as_numpy(name).item()
    messages = json.dumps([{"role": "user", "content": [inline(png(132)), {"type": "text", "text": "What?"}]}])
    body = {"messages": messages, "stream": False, "max_tokens": 9}
    whole, ours = (post(server, f"{ENSEMBLE}/generate", body) for server in (live_server, split.language))
    assert ours == whole
    assert ours[0] == 200


SAME_AS_WHOLE = {
    **{name: inputs for name, (inputs, _) in BAD_REQUESTS.items()},
    "truncated pixels": prompt_inputs(IMAGE, images=[png(140, 96, 64)[:-30]]),
    "the second of three is truncated": prompt_inputs(
        IMAGE * 3, images=[png(141), png(142, 96, 64)[:-30], png(143)]),
    "two are truncated": prompt_inputs(IMAGE * 2, images=[png(144, 64, 96)[:-30], png(145, 96, 64)[:-40]]),
    "truncated, and the header of a later one is wrong": prompt_inputs(
        IMAGE * 2, images=[png(146, 96, 64)[:-30], b"no image"]),
    "narrow beyond measure": prompt_inputs(IMAGE, images=[png(147, 3216, 16)]),
    "broken base64": prompt_inputs(IMAGE, images=[b"data:image/png;base64,????"]),
}


@pytest.mark.parametrize("inputs", SAME_AS_WHOLE.values(), ids=SAME_AS_WHOLE)
def test_error_is_that_of_a_whole_server(live_server: LiveServer, split: SplitDeployment, inputs: list) -> None:
    errors = []
    for server in (live_server, split.language):
        with pytest.raises(InferenceServerException) as streamed:
            Stream(server, inputs).rest()
        with pytest.raises(InferenceServerException) as whole:
            grpc_client.InferenceServerClient(server.grpc_url).infer(WHOLE, inputs)
        errors.append([streamed.value.message(), whole.value.message(), whole.value.status()])
    assert errors[1] == errors[0]


def test_broken_videos_have_the_same_errors(live_server: LiveServer, split: SplitDeployment) -> None:
    for video in (gif(150)[:-200], gif(151, 4, 64)[:400], b"no video", png(152)[:-30], gif(153, 4, 512)):
        messages = []
        for server in (live_server, split.language):
            with pytest.raises(ChatError) as error:
                server.chat().ask("What?", [png(154)], [video])
            messages.append((type(error.value), str(error.value)))
        assert messages[1] == messages[0]
