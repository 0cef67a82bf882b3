"""In-flight batching: company changes no answer, and every request ends exactly once."""

import dataclasses
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from engines.batching.batcher import Batcher
from engines.batching.prefill import PrefillSettings
from engines.batching.request import Emission
from engines.onnxruntime.vision_encoder import VisionEncoder
from qwen3vl.errors import InvalidRequest, Overloaded
from qwen3vl.limits import Limits
from qwen3vl.tokenizer import Tokenizer
from tests.engines.support import Answer, ask, make_request

LIMITS = Limits(prompt_tokens=300, total_tokens=400, queue=64)


@pytest.fixture
def batcher(random_build: Path):
    batcher = Batcher(random_build / "engines", LIMITS, slots=3, prefill=PrefillSettings(min_tokens=16, max_tokens=16))
    yield batcher
    batcher.close()


def finishes(answer: Answer) -> list[str]:
    return [output.finish_reason for output in answer.outputs if isinstance(output, Emission) and output.finish_reason]


def test_answers_in_company_equal_answers_alone(batcher: Batcher, vision: VisionEncoder, inputs):
    requests = [make_request(vision, inputs[kind], max_tokens=length, stream=length % 2 == 0, **sampling)
                for kind in inputs for length, sampling in ((20, {}), (33, {"temperature": 0.8, "seed": 5}),
                                                            (1, {}), (48, {"repetition_penalty": 1.3}))]
    alone = [ask(batcher, request).ids() for request in requests]
    order = list(range(len(requests)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        together = {index: ask(batcher, requests[index]) for index in order}
        assert [together[index].ids() for index in range(len(requests))] == alone
        assert all(len(finishes(answer)) == 1 for answer in together.values())
    stats = batcher.stats()
    assert (stats.active_slots, stats.queued, stats.finished) == (0, 0, 4 * len(requests))
    # Sixteen answers of up to 48 tokens took far fewer steps than one at a time would.
    assert stats.decode_steps < 0.8 * stats.generated_tokens


def test_cancelling_frees_the_slot_and_leaves_the_others_alone(batcher: Batcher, vision: VisionEncoder, inputs):
    request = make_request(vision, inputs["image"], max_tokens=90)
    expected = ask(batcher, request).ids()
    answers = [ask(batcher, make_request(vision, inputs["text"], max_tokens=350)) for _ in range(2)]
    answers += [ask(batcher, request) for _ in range(4)]
    for answer in (answers[0], answers[3]):
        answer.ticket.cancel()
    assert [answer.ids() for answer in answers[4:]] == [expected, expected]
    assert finishes(answers[0])[-1:] in (["cancelled"], ["stop"]) and answers[0].done.wait(60)
    answers[1].ticket.cancel()
    for answer in answers:
        answer.wait()
    assert batcher.stats().active_slots == 0


def test_a_short_prompt_passes_a_long_one_and_neither_answer_changes(random_build: Path, vision: VisionEncoder, inputs):
    batcher = Batcher(random_build / "engines", LIMITS, slots=5, prefill=PrefillSettings(1e-6, 4, 4))
    long, short = (make_request(vision, inputs[kind], max_tokens=30) for kind in ("images", "text"))
    alone = [ask(batcher, request).ids() for request in (long, short)]
    both_wait, firsts = threading.Event(), []

    class Timed(Answer):
        def __call__(self, output: Emission | Exception) -> None:
            if not self.outputs:
                firsts.append(self)
            super().__call__(output)

    # This one's first piece holds up the batcher's own thread, until the others have come.
    batcher.submit(make_request(vision, inputs["text"], max_tokens=40), lambda output: both_wait.wait(60))
    answers = [Timed(), Timed()]
    for answer, request in zip(answers, (long, short), strict=True):
        batcher.submit(request, answer)
    both_wait.set()
    together = [answer.ids() for answer in answers]
    batcher.close()
    assert len(long.token_ids) > len(short.token_ids)
    assert firsts == answers[::-1]
    assert together == alone


def test_cancelled_while_running_ends_with_cancelled(batcher: Batcher, vision: VisionEncoder, inputs):
    # The longest answers of three kinds run long enough to be caught; at least one must be.
    answers = [ask(batcher, make_request(vision, inputs[kind], max_tokens=390)) for kind in ("image", "images",
                                                                                             "video")]
    for answer in answers:
        answer.started.wait(60)
        answer.ticket.cancel()
    ends = [answer.wait()[-1].finish_reason for answer in answers]
    assert "cancelled" in ends
    assert batcher.stats().cancelled == ends.count("cancelled")


def test_a_whole_answer_is_one_emission_with_the_same_tokens(batcher: Batcher, vision: VisionEncoder, inputs):
    streamed = ask(batcher, make_request(vision, inputs["video"], max_tokens=25))
    whole = ask(batcher, make_request(vision, inputs["video"], max_tokens=25, stream=False))
    assert whole.ids() == streamed.ids()
    assert len(whole.outputs) == 1 < len(streamed.outputs)
    last = whole.outputs[0]
    assert (last.prompt_tokens, last.completion_tokens) == (len(inputs["video"].token_ids), 25)


def test_stop_strings_end_the_answer_before_them(batcher: Batcher, vision: VisionEncoder, inputs, random_build: Path):
    token_bytes = Tokenizer.from_checkpoint(random_build / "processor").token_bytes

    def text(answer: Answer) -> str:
        parts = [(b"".join(token_bytes[i] for i in output.token_ids), output.text_bytes) for output in answer.wait()]
        return "".join(data[:size].decode("utf-8", "replace") for data, size in parts)

    full = text(ask(batcher, make_request(vision, inputs["images"], max_tokens=60)))
    stop = next(character for character in full[5:] if character.isascii() and character.isprintable())
    for stream in (True, False):
        answer = ask(batcher, make_request(vision, inputs["images"], max_tokens=60, stop=(stop,), stream=stream))
        assert text(answer) == full[: full.index(stop)]
        assert finishes(answer) == ["stop"]


def test_answers_end_where_the_slot_does(random_build: Path, vision: VisionEncoder, inputs):
    length = len(inputs["image"].token_ids)
    batcher = Batcher(random_build / "engines", Limits(prompt_tokens=length, total_tokens=length + 10), slots=1)
    answer = ask(batcher, make_request(vision, inputs["image"], max_tokens=100))
    last = answer.wait()[-1]
    batcher.close()
    assert (last.finish_reason, last.completion_tokens) == ("length", 10)


def test_what_does_not_fit_is_refused_at_once(batcher: Batcher, vision: VisionEncoder, inputs):
    request = make_request(vision, inputs["image"])
    long = np.zeros(301, np.int32)
    for change, message in (
            ({"token_ids": long, "position_ids": np.zeros((3, 301), np.int32)}, "301 tokens.*prompt_tokens"),
            ({"token_ids": long[:0], "position_ids": np.zeros((3, 0), np.int32)}, "0 tokens"),
            ({"visual_rows": request.visual_rows[:-1]}, "visual rows"),
            ({"visual_rows": request.visual_rows[:, 1:]}, "visual_rows has shape"),
            ({"position_ids": request.position_ids[:, 1:]}, "position_ids has shape"),
            ({"token_ids": -request.token_ids}, "token ids range from -")):
        with pytest.raises(InvalidRequest, match=message):
            batcher.submit(dataclasses.replace(request, **change), lambda output: None)
    assert ask(batcher, request).ids()


def test_a_full_queue_says_so(random_build: Path, vision: VisionEncoder, inputs):
    batcher = Batcher(random_build / "engines", Limits(prompt_tokens=300, total_tokens=400, queue=1), slots=1)
    answers = []
    with pytest.raises(Overloaded, match="as many as the limit"):
        for _ in range(50):
            answers.append(ask(batcher, make_request(vision, inputs["video"], max_tokens=300)))
    for answer in answers:
        answer.ticket.cancel()
        answer.wait()
    batcher.close()


def test_a_broken_receiver_harms_nobody_else(batcher: Batcher, vision: VisionEncoder, inputs):
    def broken(output):
        raise ConnectionError("gone")

    request = make_request(vision, inputs["image"], max_tokens=40)
    expected = ask(batcher, request).ids()
    batcher.submit(make_request(vision, inputs["text"], max_tokens=300), broken)
    assert ask(batcher, request).ids() == expected


def test_closing_ends_every_request(random_build: Path, vision: VisionEncoder, inputs):
    batcher = Batcher(random_build / "engines", LIMITS, slots=1)
    answers = [ask(batcher, make_request(vision, inputs["video"], max_tokens=300)) for _ in range(3)]
    batcher.close()
    assert all(answer.done.is_set() for answer in answers)
    with pytest.raises(Overloaded, match="shutting down"):
        ask(batcher, make_request(vision, inputs["text"]))
