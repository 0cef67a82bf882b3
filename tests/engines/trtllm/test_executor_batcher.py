"""The decoder on TensorRT-LLM's executor, on a stand-in: the batcher's answers, and each ends exactly once."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.batching.batcher import Batcher
from engines.batching.request import Emission, GenerationRequest
from engines.onnxruntime.vision_encoder import VisionEncoder
from engines.trtllm.executor.batcher import ExecutorBatcher
from engines.trtllm.executor.start import ExecutorOptions
from qwen3vl.errors import ArtifactError, InvalidRequest, Overloaded, Qwen3VLError
from qwen3vl.limits import Limits
from tests.engines.support import Answer, ask, make_request
from tests.engines.trtllm.executor_standin.deployment import install, make_build

OPTIONS = ExecutorOptions(cache_fraction=0.5)
LIMITS = Limits(prompt_tokens=300, total_tokens=400, queue=64)
SLOTS = 3


@pytest.fixture(scope="module")
def trtllm_build(random_build: Path, random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_build(tmp_path_factory.mktemp("trtllm"), random_build, random_checkpoint, slots=SLOTS)


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch):
    return install(monkeypatch)


@pytest.fixture
def batcher(trtllm_build: Path, executors):
    batcher = ExecutorBatcher(trtllm_build / "engines", LIMITS, SLOTS, OPTIONS)
    yield batcher
    batcher.close()


@pytest.fixture(scope="module")
def reference(random_build: Path):
    batcher = Batcher(random_build / "engines", LIMITS, SLOTS)
    yield batcher
    batcher.close()


def rounded(request: GenerationRequest) -> GenerationRequest:
    """With visual rows that bfloat16 holds exactly, so that engines of either type read the same."""
    rows = torch.from_numpy(request.visual_rows).bfloat16().float().numpy()
    return dataclasses.replace(request, visual_rows=rows)


def make(vision: VisionEncoder, inputs, **sampling) -> GenerationRequest:
    return rounded(make_request(vision, inputs, **sampling))


def outputs(answer: Answer) -> tuple[list[int], str, int, int, int]:
    last = answer.wait()[-1]
    return (answer.ids(), last.finish_reason, last.text_bytes if not answer.outputs[0].finish_reason else 0,
            last.prompt_tokens, last.completion_tokens)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finishes(answer: Answer) -> list[str]:
    return [output.finish_reason for output in answer.outputs if isinstance(output, Emission) and output.finish_reason]


def test_answers_are_those_of_the_batcher(batcher, reference, executors, vision, inputs):
    samplings = ({}, {"temperature": 0.8, "seed": 5, "top_p": 0.9}, {"repetition_penalty": 1.3},
                 {"temperature": 1.2, "top_k": 20, "seed": 2**63 - 1}, {"stop": ("e", "\n")}, {"stream": False})
    requests = [make(vision, inputs[kind], max_tokens=length, **sampling)
                for kind in inputs for length, sampling in zip((20, 33, 25, 30, 60, 25), samplings, strict=True)]
    expected = [outputs(ask(reference, request)) for request in requests]
    order = list(range(len(requests)))
    random.Random(1).shuffle(order)
    together = {index: ask(batcher, requests[index]) for index in order}
    assert [outputs(together[index]) for index in range(len(requests))] == expected
    assert all(len(finishes(answer)) == 1 for answer in together.values())
    assert len({reason for _, reason, *_ in expected}) == 2
    stats, (executor,) = batcher.stats(), executors
    assert (stats.active_slots, stats.queued, stats.finished, stats.failed) == (0, 0, len(requests), 0)
    assert stats.prompt_tokens == sum(len(request.token_ids) for request in requests)
    assert stats.generated_tokens == sum(completion for *_, completion in expected)
    assert executor.most_active == SLOTS and executor.reused > 0


def test_equal_questions_about_different_pictures_of_one_size_share_nothing(batcher, reference, executors, vision,
                                                                           inputs):
    first = make(vision, inputs["image"], max_tokens=20)
    other = dataclasses.replace(first, visual_rows=-first.visual_rows)
    expected = [ask(reference, request).ids() for request in (first, other)]
    assert expected[0] != expected[1]
    before = executors[0].reused
    assert [ask(batcher, request).ids() for request in (first, other)] == expected
    common = np.flatnonzero(first.token_ids >= 300)[0]
    assert executors[0].reused - before <= common
    # The same picture again is found in the cache, up to the block of the last token.
    before = executors[0].reused
    assert ask(batcher, first).ids() == expected[0]
    assert executors[0].reused - before > len(first.token_ids) - 2 * 8


def test_a_stop_string_frees_the_executor_s_place(batcher, reference, executors, vision, inputs):
    request = make(vision, inputs["images"], max_tokens=300, stop=("e",))
    assert ask(reference, request).wait()[-1].completion_tokens < 250
    answers = [ask(batcher, request) for _ in range(2 * SLOTS)]
    assert {tuple(answer.ids()) for answer in answers} == {tuple(ask(reference, request).ids())}
    assert ask(batcher, make(vision, inputs["text"], max_tokens=5)).ids()
    assert batcher.stats().finished == 2 * SLOTS + 1
    assert executors[0].cancellations == 2 * SLOTS


def test_cancelling_leaves_the_others_alone(batcher, executors, vision, inputs):
    request = make(vision, inputs["image"], max_tokens=60)
    expected = ask(batcher, request).ids()
    running = [ask(batcher, make(vision, inputs[kind], max_tokens=390)) for kind in ("image", "images", "video")]
    waiting = [ask(batcher, request) for _ in range(4)]
    for answer in running:
        answer.started.wait(60)
    with executors[0].held():
        waiting[0].ticket.cancel()
        assert waiting[0].wait()[-1].finish_reason == "cancelled" and waiting[0].ids() == []
        for answer in running:
            answer.ticket.cancel()
        wait_for(lambda: executors[0].cancellations == 3)
    assert [answer.ids() for answer in waiting[1:]] == [expected] * 3
    assert [finishes(answer) for answer in (*running, waiting[0])] == [["cancelled"]] * 4
    stats = batcher.stats()
    assert (stats.cancelled, stats.finished, stats.active_slots, stats.queued) == (4, 4, 0, 0)


def test_a_failed_step_fails_what_is_running_and_nothing_else(batcher, executors, vision, inputs):
    request = make(vision, inputs["video"], max_tokens=30)
    expected = ask(batcher, request).ids()

    def fault():
        executors[0].fault = lambda: None
        raise RuntimeError("CUDA out of memory")

    executors[0].fault = fault
    answer = ask(batcher, request)
    with pytest.raises(Qwen3VLError, match="forwardAsync function: CUDA out of memory"):
        answer.wait()
    assert ask(batcher, request).ids() == expected
    stats = batcher.stats()
    assert (stats.failed, stats.finished, stats.active_slots) == (1, 2, 0)


def test_a_request_that_the_executor_refuses_fails_alone(batcher, executors, vision, inputs, monkeypatch):
    request = make(vision, inputs["image"], max_tokens=20)
    expected = ask(batcher, request).ids()
    short = dataclasses.replace(executors[0].engine, max_input_len=len(inputs["image"].token_ids))
    executors[0].engine = short
    refused, taken = ask(batcher, make(vision, inputs["images"])), ask(batcher, request)
    with pytest.raises(Qwen3VLError, match="exceeds maximum input length"):
        refused.wait()
    assert taken.ids() == expected


def test_what_cannot_be_handed_over_fails_alone(batcher, executors, vision, inputs, monkeypatch):
    request = make(vision, inputs["image"], max_tokens=20)
    expected = ask(batcher, request).ids()
    calls = iter([True])
    enqueue = executors[0].enqueue_request

    def refuse_once(executor_request):
        if next(calls, False):
            raise RuntimeError("Maximum queue size of 1 has been reached")
        return enqueue(executor_request)

    monkeypatch.setattr(executors[0], "enqueue_request", refuse_once)
    answers = [ask(batcher, request) for _ in range(2)]
    with pytest.raises(Qwen3VLError, match="Maximum queue size"):
        answers[0].wait()
    assert answers[1].ids() == expected


def test_a_broken_connection_to_the_executor_fails_what_is_running(batcher, executors, vision, inputs, monkeypatch):
    request = make(vision, inputs["text"], max_tokens=300)
    await_responses = executors[0].await_responses

    def broken(timeout):
        monkeypatch.setattr(executors[0], "await_responses", await_responses)
        raise RuntimeError("MPI_Recv failed")

    answer = ask(batcher, request)
    answer.started.wait(60)
    with executors[0].held():
        monkeypatch.setattr(executors[0], "await_responses", broken)
        with pytest.raises(Qwen3VLError, match="MPI_Recv failed"):
            answer.wait()
    assert len(ask(batcher, make(vision, inputs["text"], max_tokens=9)).ids()) == 9  # late responses are ignored


def test_a_small_cache_makes_requests_wait_not_fail(random_build, random_checkpoint, tmp_path, executors, reference,
                                                   vision, inputs):
    build = make_build(tmp_path / "build", random_build, random_checkpoint, slots=SLOTS, blocks=20)
    batcher = ExecutorBatcher(build / "engines", LIMITS, SLOTS, dataclasses.replace(OPTIONS, reuse_cache=False))
    requests = [make(vision, inputs[kind], max_tokens=40) for kind in ("image", "text", "image", "text")]
    expected = [ask(reference, request).ids() for request in requests]
    answers = [ask(batcher, request) for request in requests]
    assert [answer.ids() for answer in answers] == expected
    batcher.close()
    assert executors[0].reused == 0


def test_answers_end_where_the_engine_does(random_build, random_checkpoint, tmp_path, executors, vision, inputs):
    length = len(inputs["image"].token_ids)
    build = make_build(tmp_path / "build", random_build, random_checkpoint, prompt_tokens=length,
                       total_tokens=length + 10, visual_tokens=16)
    batcher = ExecutorBatcher(build / "engines", Limits(prompt_tokens=length, total_tokens=length + 10), 1,
                              OPTIONS)
    last = ask(batcher, make(vision, inputs["image"], max_tokens=100)).wait()[-1]
    batcher.close()
    assert (last.finish_reason, last.completion_tokens) == ("length", 10)


def test_what_does_not_fit_is_refused_at_once(batcher, vision, inputs):
    request = make(vision, inputs["image"])
    rows = np.zeros((65 * 4, 64), np.float32)
    for change, message in (
            ({"visual_rows": rows}, "65 visual tokens, expected at most 64"),
            ({"position_ids": request.position_ids + 400}, "position_ids range from 400"),
            ({"position_ids": request.position_ids - 1}, "position_ids range from -1"),
            ({"token_ids": -request.token_ids}, "token ids range from -")):
        with pytest.raises(InvalidRequest, match=message):
            batcher.submit(dataclasses.replace(request, **change), lambda output: None)
    assert ask(batcher, request).ids()


def test_a_full_queue_says_so(trtllm_build, executors, vision, inputs):
    batcher = ExecutorBatcher(trtllm_build / "engines", dataclasses.replace(LIMITS, queue=1), 1, OPTIONS)
    answers = []
    with executors[0].held(), pytest.raises(Overloaded, match="as many as the limit"):
        for _ in range(4):
            answers.append(ask(batcher, make(vision, inputs["video"], max_tokens=300)))
    assert 1 <= len(answers) <= 3
    for answer in answers:
        answer.ticket.cancel()
        answer.wait()
    batcher.close()


def test_the_executor_has_no_more_requests_than_there_are_slots(trtllm_build, executors, vision, inputs):
    batcher = ExecutorBatcher(trtllm_build / "engines", LIMITS, 2, OPTIONS)
    answers = [ask(batcher, make(vision, inputs["image"], max_tokens=30)) for _ in range(6)]
    assert all(len(answer.ids()) == 30 for answer in answers)
    batcher.close()
    assert executors[0].most_active == 2


def test_a_broken_receiver_harms_nobody_else(batcher, vision, inputs):
    def broken(output):
        raise ConnectionError("gone")

    request = make(vision, inputs["image"], max_tokens=40)
    expected = ask(batcher, request).ids()
    batcher.submit(make(vision, inputs["text"], max_tokens=300), broken)
    assert ask(batcher, request).ids() == expected


def test_closing_ends_every_request_and_the_executor(trtllm_build, executors, vision, inputs):
    batcher = ExecutorBatcher(trtllm_build / "engines", LIMITS, 1, OPTIONS)
    executor = executors[0]
    answers = [ask(batcher, make(vision, inputs["video"], max_tokens=300)) for _ in range(3)]
    answers[0].started.wait(60)
    with executor.held():
        closing = threading.Thread(target=batcher.close)
        closing.start()
        wait_for(lambda: executor.cancellations == 1)
    closing.join(60)
    assert [type(answer.outputs[-1]) for answer in answers] == [Overloaded] * 3
    assert not executor.can_enqueue_requests() and executor.most_active == 1
    with pytest.raises(Overloaded, match="shutting down"):
        ask(batcher, make(vision, inputs["text"]))


@pytest.mark.parametrize(("limits", "slots", "message"), [
    ({"prompt_tokens": 301, "total_tokens": 400}, 3, "prompt_tokens is 301, expected at most 300"),
    ({"prompt_tokens": 300, "total_tokens": 401}, 3, "total_tokens is 401, expected at most 400"),
    ({"prompt_tokens": 300, "total_tokens": 400}, 4, "slots is 4, expected at most 3"),
])
def test_limits_beyond_the_engine_are_refused(trtllm_build, executors, limits, slots, message):
    with pytest.raises(ArtifactError, match=message):
        ExecutorBatcher(trtllm_build / "engines", Limits(**limits), slots, OPTIONS)
    assert not executors
