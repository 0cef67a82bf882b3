"""A real server, asked with Triton's own client: answers, streaming, cancellation, errors."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.support.pictures import gif, png
from tests.support.server import ENDLESS, LIMITS, SLOTS, LiveServer, infer_input
from tests.support.talking_checkpoint import CHINESE, EMOJI, SENTENCES
from triton_repo.repository import ENSEMBLE, WHOLE

SECONDS = 60


class Stream:
    """One request to the ensemble over gRPC, response by response."""

    def __init__(self, server: LiveServer, inputs: list, parameters: dict | None = None) -> None:
        self._responses: queue.Queue[tuple] = queue.Queue()
        self._client = grpc_client.InferenceServerClient(server.grpc_url)
        self._client.start_stream(lambda result, error: self._responses.put((result, error)))
        self._client.async_stream_infer(ENSEMBLE, inputs, parameters=parameters)

    def next(self) -> tuple[str, str, dict]:
        """Text, finish reason and usage of the next response."""
        result, error = self._responses.get(timeout=SECONDS)
        if error is not None:
            self._client.stop_stream()
            raise error
        text, reason, usage = (result.as_numpy(name).item().decode() for name in ("text", "finish_reason", "usage"))
        return text, reason, json.loads(usage)

    def rest(self) -> list[tuple[str, str, dict]]:
        """All responses to the last."""
        responses = [self.next()]
        while not responses[-1][1]:
            responses.append(self.next())
        self._client.stop_stream()
        assert self._responses.empty(), "a response came after the last"
        return responses

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)


def prompt_inputs(prompt: str, **others: object) -> list:
    kinds = {"max_tokens": "INT32", "temperature": "FP32", "seed": "INT64", "stop": "BYTES", "stream": "BOOL",
             "images": "BYTES"}
    return [infer_input("prompt", [prompt.encode()], "BYTES"),
            *(infer_input(name, value if isinstance(value, list) else [value], kinds[name])
              for name, value in others.items())]


def post(server: LiveServer, path: str, body: dict | bytes) -> tuple[int, str]:
    """Status and body of a plain HTTP request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"http://{server.http_url}/v2/models/{path}", data, SECONDS) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def assert_serves(server: LiveServer) -> None:
    """The next request is answered."""
    assert "".join(text for text, _, _ in Stream(server, prompt_inputs(EMOJI)).rest()) == SENTENCES[EMOJI]


def test_text_only_requests_never_load_the_vision_engine(live_build) -> None:
    # A server of its own: the shared one sees pictures.
    with LiveServer(live_build).running() as server:
        assert_serves(server)
        server.chat().ask("hello", max_tokens=3)
        assert server.wait_for(lambda metrics: metrics["finished_requests"] == 2)["vision_engine_loaded"] == 0
        server.chat().ask("hello", images=[png(1)], max_tokens=3)
        metrics = server.wait_for(lambda metrics: metrics["finished_requests"] == 3)
        assert (metrics["vision_engine_loaded"], metrics["images_encoded"]) == (1, 1)


def test_stream_arrives_in_order_and_ends_once(live_server: LiveServer) -> None:
    whole, = Stream(live_server, prompt_inputs("tell me", max_tokens=500, stream=False)).rest()
    pieces = Stream(live_server, prompt_inputs("tell me", max_tokens=500)).rest()
    assert len(pieces) > 1
    counts = [usage["completion_tokens"] for _, _, usage in pieces]
    assert counts == sorted(set(counts))
    assert [reason for _, reason, _ in pieces] == [""] * (len(pieces) - 1) + ["length"]
    assert "".join(text for text, _, _ in pieces) == whole[0]
    assert pieces[-1][1:] == whole[1:] == ("length", {"prompt_tokens": 7, "completion_tokens": 500})


@pytest.mark.parametrize("trigger", [CHINESE, EMOJI])
def test_streamed_characters_are_never_split(live_server: LiveServer, trigger: str) -> None:
    pieces = Stream(live_server, prompt_inputs(trigger)).rest()
    sentence = SENTENCES[trigger]
    assert "".join(text for text, _, _ in pieces) == sentence
    # Each byte is a token, so a piece ends wherever a character does, if the way out is free.
    assert all(text and set(text) <= set(sentence) for text, reason, _ in pieces if not reason)
    assert pieces[-1][2]["completion_tokens"] == len(sentence.encode()) + 1


def test_stop_string_ends_the_answer_before_it(live_server: LiveServer) -> None:
    pieces = Stream(live_server, prompt_inputs(CHINESE, stop=["花".encode()])).rest()
    assert "".join(text for text, _, _ in pieces) == SENTENCES[CHINESE].removesuffix("花")
    assert pieces[-1][1] == "stop"


def test_concurrent_mixed_requests_get_the_answers_they_get_alone(live_server: LiveServer) -> None:
    chat = live_server.chat()

    def ask(i: int):
        images = [png(i, 32 + 32 * (i % 3), 96)] * (i % 3)
        videos = [gif(i)] if i % 5 == 0 else []
        sampling = {"temperature": 1.0, "seed": i} if i % 2 else {}
        return chat.ask(f"question {i} " * (1 + i % 7), images, videos, max_tokens=10 + i, **sampling)

    alone = [ask(i) for i in range(32)]
    with ThreadPoolExecutor(32) as pool:
        for _ in range(4):
            assert list(pool.map(ask, range(32))) == alone
    assert len({answer.text for answer in alone}) == 32


def test_cancelled_stream_frees_its_slot(live_server: LiveServer) -> None:
    before = live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    streams = [Stream(live_server, prompt_inputs(f"endless {i}", max_tokens=ENDLESS)) for i in range(SLOTS + 2)]
    live_server.wait_for(lambda metrics: (metrics["decoder_active_slots"], metrics["decoder_queued_requests"])
                         == (SLOTS, 2))
    for stream in streams:
        stream.cancel()
    # All at once: metrics are set one after the other, and may be read in between.
    after = live_server.wait_for(lambda metrics: (
        metrics["decoder_active_slots"], metrics["decoder_queued_requests"],
        metrics["cancelled_requests"] - before["cancelled_requests"]) == (0, 0, len(streams)))
    assert after["generated_tokens"] - before["generated_tokens"] < ENDLESS * len(streams)
    assert_serves(live_server)


def test_cancellation_reaches_an_answer_that_is_not_streamed(live_server: LiveServer) -> None:
    before = live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    stream = Stream(live_server, prompt_inputs("endless", max_tokens=ENDLESS, stream=False))
    live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 1)
    stream.cancel()
    live_server.wait_for(lambda metrics: metrics["cancelled_requests"] == before["cancelled_requests"] + 1)


def test_cancellation_reaches_a_whole_answer(live_server: LiveServer) -> None:
    before = live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    client = grpc_client.InferenceServerClient(live_server.grpc_url)
    call = client.async_infer(WHOLE, prompt_inputs("endless", max_tokens=ENDLESS), lambda result, error: None)
    live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 1)
    call.cancel()
    live_server.wait_for(lambda metrics: metrics["cancelled_requests"] == before["cancelled_requests"] + 1)
    assert client.infer(WHOLE, prompt_inputs(EMOJI)).as_numpy("text").item().decode() == SENTENCES[EMOJI]


def test_http_client_that_hangs_up_frees_its_slot(live_server: LiveServer) -> None:
    before = live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    body = json.dumps({"prompt": "endless", "max_tokens": ENDLESS}).encode()
    response = urllib.request.urlopen(f"http://{live_server.http_url}/v2/models/{ENSEMBLE}/generate_stream", body)
    assert response.readline().startswith(b"data: ")
    response.close()
    live_server.wait_for(lambda metrics: metrics["cancelled_requests"] == before["cancelled_requests"] + 1)


IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
BAD_REQUESTS = {
    "neither prompt nor messages": ([], "neither messages and prompt"),
    "both prompt and messages": ([*prompt_inputs("x"), infer_input("messages", [b"[]"], "BYTES")],
                                 "both messages and prompt"),
    "messages that are no JSON": ([infer_input("messages", [b"[{]"], "BYTES")], "messages is not valid JSON"),
    "messages of another structure": ([infer_input("messages", [b'[{"role": "cook"}]'], "BYTES")], "messages[0].role"),
    "prompt that is no UTF-8": ([infer_input("prompt", [b"\xff"], "BYTES")], "prompt is not valid UTF-8"),
    "corrupt image": (prompt_inputs(IMAGE, images=[png(1)[:100]]), "images[0]"),
    "no image at all": (prompt_inputs(IMAGE, images=[b"hello"]), "images[0]: the image (5 bytes"),
    "image of too many bytes": (prompt_inputs(IMAGE, images=[bytes(200_001)]), "limit image_bytes is 200000"),
    "image of too many pixels": (prompt_inputs(IMAGE, images=[png(1, 512, 512)]), "image_pixels"),
    "image without a place": (prompt_inputs("x", images=[png(1)]), "places for 0 images"),
    "too many images": (prompt_inputs(IMAGE * 5, images=[png(1)] * 5), "the limit images is 4"),
    "too long a prompt": (prompt_inputs("x y " * 1000), "the limit prompt_tokens is 1000"),
    "max_tokens of 0": (prompt_inputs("x", max_tokens=0), "max_tokens is 0"),
    "temperature that is no number": (prompt_inputs("x", temperature=float("nan")), "temperature is nan"),
    "negative temperature": (prompt_inputs("x", temperature=-1.0), "temperature is -1.0"),
    "empty stop string": (prompt_inputs("x", stop=[b""]), "stop is"),
    # These are refused by Triton itself.
    "wrong dtype": ([*prompt_inputs("x"), infer_input("max_tokens", [1.0], "FP32")],
                    "'max_tokens' data-type is 'FP32'"),
    "wrong shape": ([*prompt_inputs("x"), infer_input("max_tokens", [1, 2], "INT32")], "shape"),
    "unknown input": ([*prompt_inputs("x"), infer_input("max_token", [1], "INT32")], "'max_token'"),
}


@pytest.mark.parametrize("inputs,message", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_request_gets_its_own_error_and_the_next_is_served(live_server: LiveServer, inputs: list,
                                                               message: str) -> None:
    with pytest.raises(InferenceServerException) as streamed:
        Stream(live_server, inputs).rest()
    assert message in streamed.value.message()
    with pytest.raises(InferenceServerException) as whole:
        grpc_client.InferenceServerClient(live_server.grpc_url).infer(WHOLE, inputs)
    assert message in whole.value.message()
    assert whole.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert_serves(live_server)


def test_unknown_parameter_is_refused_by_name(live_server: LiveServer) -> None:
    with pytest.raises(InferenceServerException, match="unknown parameter 'temprature'"):
        Stream(live_server, prompt_inputs("x"), {"temprature": 1}).rest()
    for model in (ENSEMBLE, WHOLE):
        status, body = post(live_server, f"{model}/generate", {"prompt": "x", "temprature": 0.5})
        assert (status, "unknown parameter 'temprature'" in body) == (400, True)
    assert_serves(live_server)


def test_generate_gives_one_whole_answer(live_server: LiveServer) -> None:
    status, body = post(live_server, f"{ENSEMBLE}/generate", {"prompt": CHINESE, "stream": False})
    answer = json.loads(body)
    assert (status, answer["text"], answer["finish_reason"]) == (200, SENTENCES[CHINESE], "stop")
    assert json.loads(answer["usage"]) == {"prompt_tokens": 1, "completion_tokens": 10}


def test_generate_stream_gives_events(live_server: LiveServer) -> None:
    status, body = post(live_server, f"{ENSEMBLE}/generate_stream", {"prompt": EMOJI})
    events = [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line]
    assert (status, "".join(event["text"] for event in events)) == (200, SENTENCES[EMOJI])
    assert events[-1]["finish_reason"] == "stop"


def test_broken_json_over_http_is_refused(live_server: LiveServer) -> None:
    status, body = post(live_server, f"{ENSEMBLE}/generate", b'{"prompt": ')
    assert status >= 400
    assert "JSON" in body
    assert_serves(live_server)


def test_plain_http_infer_gives_the_same_answer_as_the_ensemble(live_server: LiveServer) -> None:
    image, prompt = png(5), b"<|vision_start|><|image_pad|><|vision_end|>what?"
    tensors = {"prompt": np.array([prompt], np.object_), "images": np.array([image], np.object_),
               "max_tokens": np.array([20], np.int32)}
    inputs = []
    for name, array in tensors.items():
        inputs.append(http_client.InferInput(name, list(array.shape), "INT32" if name == "max_tokens" else "BYTES"))
        inputs[-1].set_data_from_numpy(array)
    result = http_client.InferenceServerClient(live_server.http_url).infer(WHOLE, inputs)
    expected = Stream(live_server, prompt_inputs(prompt.decode(), images=[image], max_tokens=20)).rest()
    assert result.as_numpy("text").item().decode() == "".join(text for text, _, _ in expected)
    assert json.loads(result.as_numpy("usage").item()) == expected[-1][2]


def test_full_queue_is_reported_as_busy(live_server: LiveServer) -> None:
    live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    fillers = [Stream(live_server, prompt_inputs(f"endless {i}", max_tokens=ENDLESS, stream=False))
               for i in range(SLOTS + LIMITS["queue"])]
    live_server.wait_for(lambda metrics: metrics["decoder_queued_requests"] == LIMITS["queue"])
    with pytest.raises(InferenceServerException, match=r"server busy: .*limit"):
        Stream(live_server, prompt_inputs("x")).rest()
    with pytest.raises(InferenceServerException) as whole:
        grpc_client.InferenceServerClient(live_server.grpc_url).infer(WHOLE, prompt_inputs("x"))
    assert whole.value.status() == "StatusCode.UNAVAILABLE"
    for filler in fillers:
        filler.cancel()
    live_server.wait_for(lambda metrics: metrics["decoder_queued_requests"] + metrics["decoder_active_slots"] == 0)
    assert_serves(live_server)
