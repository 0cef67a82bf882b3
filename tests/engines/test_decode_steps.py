"""Steps that begin before the last one's tokens are known: the answers are the same, whoever comes and goes."""

import random
import threading
from pathlib import Path

import numpy as np
import pytest

from engines.batching import batcher as batcher_module
from engines.batching.batcher import Batcher
from engines.batching.prefill import PrefillSettings
from engines.batching.request import GenerationRequest
from engines.onnxruntime.decoder import Decoder
from engines.onnxruntime.open_decoder import open_decoder
from qwen3vl.limits import Limits
from tests.engines.late_decoder import LateDecoder
from tests.engines.support import Answer, ask, make_request

LIMITS = Limits(prompt_tokens=300, total_tokens=400, queue=64)
GREEDY = [{"max_tokens": length} for length in (1, 2, 9, 24)]
DRAWN = [{"max_tokens": 21, "temperature": 0.9, "top_k": 20, "top_p": 0.8, "seed": seed} for seed in range(2)]
DRAWN.append({"max_tokens": 18, "temperature": 1.4, "top_k": 64, "seed": 5})
BY_THE_HOST = [{"max_tokens": 22, "repetition_penalty": 1.3}, {"max_tokens": 15, "temperature": 0.8, "seed": 3},
               {"max_tokens": 12, "temperature": 1.1, "top_k": 65, "seed": 4}]


@pytest.fixture
def late(random_build: Path, monkeypatch: pytest.MonkeyPatch):
    """A batcher whose decoder runs ahead, and that decoder."""
    made = []

    def open_late(*arguments) -> LateDecoder:
        made.append(LateDecoder(open_decoder(*arguments)))
        return made[0]

    monkeypatch.setattr(batcher_module, "open_decoder", open_late)
    batcher = Batcher(random_build / "engines", LIMITS, 4, PrefillSettings(min_tokens=16, max_tokens=16))
    yield batcher, made[0]
    batcher.close()


@pytest.fixture(scope="module")
def in_time(random_build: Path):
    """A batcher that takes one step after the other."""
    batcher = Batcher(random_build / "engines", LIMITS, 4)
    yield batcher
    batcher.close()


def requests_of(vision, inputs, samplings: list[dict]) -> list[GenerationRequest]:
    kinds = list(inputs)
    return [make_request(vision, inputs[kinds[index % len(kinds)]], **sampling)
            for index, sampling in enumerate(samplings)]


def test_steps_that_wait_give_what_the_decoder_says(random_build: Path, in_time: Batcher, vision, inputs):
    request = make_request(vision, inputs["images"], max_tokens=30)
    decoder, length, tokens = Decoder(random_build / "engines", 1, 400), len(request.token_ids), []
    logits = decoder.prefill(0, request.token_ids, request.position_ids, request.visual_rows, 0,
                             np.array([length - 1], np.int32))
    for total in range(length + 1, length + 31):
        tokens.append(int(logits[0].argmax()))
        logits = decoder.decode(np.array(tokens[-1:], np.int32), np.array([total - 1 + request.rope_delta], np.int32),
                                np.array([total], np.int32))
    assert ask(in_time, request).ids() == tokens


@pytest.mark.parametrize("samplings", [GREEDY, GREEDY + DRAWN, DRAWN + BY_THE_HOST, GREEDY + DRAWN + BY_THE_HOST],
                         ids=["greedy", "drawn", "some by the host", "all kinds"])
def test_answers_are_those_of_steps_that_wait(late, in_time: Batcher, vision, inputs, samplings: list[dict]):
    batcher, _ = late
    requests = requests_of(vision, inputs, samplings)
    expected = [ask(in_time, request).ids() for request in requests]
    order = list(range(len(requests)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        together = {index: ask(batcher, requests[index]) for index in order}
        assert [together[index].ids() for index in range(len(requests))] == expected
    stats = batcher.stats()
    assert (stats.active_slots, stats.queued, stats.finished) == (0, 0, 3 * len(requests))
    assert stats.generated_tokens == 3 * sum(map(len, expected))


@pytest.mark.parametrize(("sampling", "fed_back"), [(GREEDY[-1], True), (DRAWN[0], True), (BY_THE_HOST[0], False)])
def test_a_step_begins_before_the_last_one_is_read_or_at_least_before_it_is_sent(late, vision, inputs, sampling: dict,
                                                                                fed_back: bool):
    batcher, decoder = late
    sent = []

    class Watching(Answer):
        def __call__(self, output) -> None:
            sent.append((output.completion_tokens, len(decoder.begun)))
            super().__call__(output)

    answer = Watching()
    batcher.submit(make_request(vision, inputs["text"], **sampling), answer)
    tokens = len(answer.ids())
    # No step for the first token, which the prompt gives, and none behind the last one.
    assert len(decoder.begun) == tokens - 1
    # All but the first follow tokens that nobody had read.
    assert decoder.fed_back == (tokens - 2 if fed_back else 0)
    # When a token is sent, the step for the next one has begun.
    assert {begun - token for token, begun in sent if 1 < token < tokens} == {0}


def test_an_answer_that_ends_unforeseen_leaves_the_others_alone(late, in_time: Batcher, vision, inputs):
    batcher, decoder = late
    long = make_request(vision, inputs["images"], max_tokens=60)
    expected = ask(in_time, long).ids()
    whole = ask(in_time, make_request(vision, inputs["image"], max_tokens=40))
    token_bytes = batcher._token_bytes
    text = b"".join(token_bytes[token] for token in whole.ids())
    stop = next(chr(byte) for byte in text[5:] if chr(byte).isprintable() and byte < 128)
    stopping = make_request(vision, inputs["image"], max_tokens=40, stop=(stop,))
    stopped = ask(in_time, stopping)
    for count in (1, 3):
        answers = [ask(batcher, stopping) for _ in range(count)] + [ask(batcher, long)]
        answers += [ask(batcher, stopping) for _ in range(count)]
        assert [answer.ids() for answer in answers] == [
            expected if index == count else stopped.ids() for index in range(2 * count + 1)]
        assert [answer.outputs[-1].finish_reason for answer in answers].count("stop") == 2 * count
    assert decoder.fed_back > 0


@pytest.mark.parametrize("leaves", range(3))
def test_a_request_that_is_cancelled_while_a_step_is_under_way_leaves_the_others_alone(
        late, in_time: Batcher, vision, inputs, leaves: int):
    batcher, decoder = late
    requests = [make_request(vision, inputs[kind], max_tokens=80) for kind in ("video", "images", "image")]
    expected = [ask(in_time, request).ids() for request in requests]
    under_way = []

    class Cancelling(Answer):
        """Sent by the batcher's thread, so that it looks for cancelled requests next."""

        def __call__(self, output) -> None:
            super().__call__(output)
            if all(len(answer.outputs) > 5 for answer in answers) and not under_way:
                under_way.append(not decoder.begun[-1].is_read)
                answers[leaves].ticket.cancel()

    answers = [Cancelling() for _ in requests]
    for answer, request in zip(answers, requests, strict=True):
        answer.ticket = batcher.submit(request, answer)
    for number, answer in enumerate(answers):
        if number != leaves:
            assert answer.ids() == expected[number]
    assert answers[leaves].wait()[-1].finish_reason == "cancelled" and under_way == [True]
    assert batcher.stats().active_slots == 0


def test_a_step_that_fails_ends_its_requests_and_nothing_else(late, vision, inputs, monkeypatch: pytest.MonkeyPatch):
    batcher, decoder = late
    request = make_request(vision, inputs["image"], max_tokens=30)
    expected, real, failing = ask(batcher, request).ids(), decoder.decoder.decode, threading.Event()

    def decode(*arguments):
        if failing.is_set():
            failing.clear()
            raise RuntimeError("no more memory")
        return real(*arguments)

    monkeypatch.setattr(decoder.decoder, "decode", decode)
    failing.set()
    with pytest.raises(Exception, match="no more memory"):
        ask(batcher, request).ids()
    assert ask(batcher, request).ids() == expected
