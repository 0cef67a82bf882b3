"""What a request brings to TensorRT-LLM's executor, and where a batch finds it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.batching.request import GenerationRequest
from engines.trtllm.executor.extra_ids import extra_ids
from engines.trtllm.executor.request import RequestBuilder
from engines.trtllm.executor.rotary_table import RotaryTables
from engines.trtllm.record import TrtllmRecord
from qwen3vl.config import ModelConfig
from qwen3vl.errors import InvalidRequest
from qwen3vl.positions import mrope_positions
from qwen3vl.rope import text_frequencies
from qwen3vl.sampling import SamplingParams
from qwen3vl.torch_decoder import MRoPE
from tests.engines.trtllm.executor_standin.deployment import install, make_build
from tests.engines.trtllm.executor_standin.prompt_table import PromptTable

END, OTHER_END = 258, 256
VOCAB, STEP, HIDDEN = 300, 4, 64
SLOTS, VISUAL_TOKENS = 3, 64


@pytest.fixture(scope="module")
def config(random_checkpoint: Path) -> ModelConfig:
    return ModelConfig.from_checkpoint(random_checkpoint)


@pytest.fixture(scope="module")
def record(random_build: Path, random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> TrtllmRecord:
    build = make_build(tmp_path_factory.mktemp("build"), random_build, random_checkpoint, slots=SLOTS,
                       visual_tokens=VISUAL_TOKENS)
    return TrtllmRecord.load(build / "engines/trtllm")


@pytest.fixture
def builder(record: TrtllmRecord, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> RequestBuilder:
    install(monkeypatch)
    return RequestBuilder(record, config, (END, OTHER_END))


def request_of(parts: list[int | tuple[int, int]], number: int = 0, **sampling) -> GenerationRequest:
    """A prompt of words (a number of them) and pictures (rows and columns of visual tokens)."""
    random, ids, grids, taken = np.random.default_rng(number), [], [], 0
    for part in parts:
        if isinstance(part, int):
            ids += random.integers(0, VOCAB, part).tolist()
        else:
            tokens = part[0] * part[1]
            ids += (VOCAB + STEP * np.arange(taken, taken + tokens)).tolist()
            taken += tokens
            grids.append((1, 2 * part[0], 2 * part[1]))
    token_ids = np.array(ids, np.int32)
    positions, delta = mrope_positions(token_ids >= VOCAB, np.array(grids).reshape(-1, 3), 2)
    rows = random.standard_normal((STEP * taken, HIDDEN)).astype(np.float32)
    return GenerationRequest(token_ids, positions, delta, rows, SamplingParams(**sampling))


PROMPTS = st.lists(st.one_of(st.integers(1, 6), st.tuples(st.integers(1, 4), st.integers(1, 4))), min_size=1,
                   max_size=5).map(lambda parts: [part for pair in parts for part in (pair, 1)])
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RELAXED
@given(prompts=st.lists(PROMPTS, min_size=1, max_size=SLOTS), data=st.data())
def test_any_chunks_of_any_mixture_read_their_own_rows(builder: RequestBuilder, prompts, data) -> None:
    """In a batch of chunks and generated tokens, level l of a visual token is row `id - V + l + task * part_rows`."""
    requests = [request_of(parts, number) for number, parts in enumerate(prompts)]
    built = [builder.build(request, 10) for request in requests]
    tables = [made.prompt_tuning_config and made.prompt_tuning_config.embedding_table for made in built]
    table = PromptTable(SLOTS * STEP * VISUAL_TOKENS, SLOTS, HIDDEN, torch.bfloat16)
    done, seen = [0] * len(requests), [[] for _ in requests]
    while any(count < len(request.token_ids) for count, request in zip(done, requests, strict=True)):
        # One step: requests in any order, each with any chunk of its prompt, or a generated token behind it.
        order = data.draw(st.lists(st.sampled_from(range(len(requests))), min_size=1, unique=True))
        table.fill([tables[index] for index in order])
        for task, index in enumerate(order):
            tokens = torch.tensor(built[index].input_token_ids)
            if done[index] == len(tokens):
                chunk = torch.tensor([data.draw(st.integers(0, VOCAB - 1))])
                assert torch.equal(table.packed_ids(chunk, task, VOCAB), chunk)
                continue
            size = data.draw(st.integers(1, len(tokens) - done[index]))
            chunk = tokens[done[index] : done[index] + size]
            ids = table.packed_ids(chunk, task, VOCAB)
            expected = requests[index].token_ids[done[index] : done[index] + size]
            visual = torch.from_numpy(expected >= VOCAB)
            assert torch.equal(ids[~visual], torch.from_numpy(expected).long()[~visual])
            seen[index].append(torch.stack([table.rows[ids[visual] - VOCAB + level] for level in range(STEP)], dim=1))
            done[index] += size
    for request, parts in zip(requests, seen, strict=True):
        rows = torch.cat(parts).flatten(0, 1) if parts else torch.empty(0, HIDDEN)
        assert torch.equal(rows.bfloat16(), torch.from_numpy(request.visual_rows).bfloat16())


@RELAXED
@given(parts=PROMPTS)
def test_rotary_rows_are_those_of_the_three_positions(config: ModelConfig, parts) -> None:
    request, length = request_of(parts), 200
    table = RotaryTables(config.text, length).table(request.position_ids, request.rope_delta)
    assert table.dtype == np.float32 and table.shape == (length * config.text.head_dim,)
    prompt = len(request.token_ids)
    positions = np.concatenate([request.position_ids, np.broadcast_to(
        np.arange(prompt, length) + request.rope_delta, (3, length - prompt))], axis=1)
    cos, sin = MRoPE(config.text)(torch.from_numpy(positions).long()[:, None])
    half, rows = config.text.head_dim // 2, torch.from_numpy(table.reshape(length, -1, 2))
    torch.testing.assert_close(rows[..., 0], cos[0, 0, :, :half], rtol=0, atol=2e-5)
    torch.testing.assert_close(rows[..., 1], sin[0, 0, :, :half], rtol=0, atol=2e-5)


def test_generated_rows_turn_like_the_engine_s_own_table(config: ModelConfig) -> None:
    request = request_of([3, (4, 2), 2])
    rows = RotaryTables(config.text, 40).table(request.position_ids, request.rope_delta).reshape(40, -1, 2)
    assert request.rope_delta == 4 - 8
    expected = np.cos((20 - 4) * text_frequencies(config.text))
    np.testing.assert_allclose(rows[20, :, 0], expected, atol=1e-5)


def test_everything_that_the_executor_needs_is_there(builder: RequestBuilder) -> None:
    request = request_of([2, (2, 3), 1], temperature=0.5, top_k=7, top_p=0.9, seed=11, repetition_penalty=1.2)
    made = builder.build(request, 17)
    assert (made.input_token_ids, made.max_tokens) == (request.token_ids.tolist(), 17)
    assert made.streaming and made.output_config.exclude_input_from_output
    assert (made.end_id, made.stop_words) == (END, [[OTHER_END]])
    assert made.mrope_config.mrope_position_deltas == request.rope_delta == 3 - 6
    assert made.prompt_tuning_config.embedding_table.shape == (24, HIDDEN)
    sampling = made.sampling_config
    assert (sampling.top_k, sampling.top_p, sampling.temperature, sampling.seed, sampling.repetition_penalty) == (
        7, 0.9, 0.5, 11, 1.2)
    text = builder.build(request_of([4]), 5)
    assert text.prompt_tuning_config is None and text.mrope_config.mrope_rotary_cos_sin.shape == (400 * 24,)


def test_sampling_means_what_it_means_elsewhere(builder: RequestBuilder) -> None:
    greedy = builder.build(request_of([4], top_p=0.5, top_k=9), 5).sampling_config
    assert (greedy.top_k, greedy.temperature, greedy.repetition_penalty) == (1, None, None)
    everything = builder.build(request_of([4], temperature=1.0, top_k=VOCAB), 5).sampling_config
    assert (everything.top_k, everything.top_p) == (0, 1.0)
    seeds = {builder.build(request_of([4], temperature=1.0), 5).sampling_config.seed for _ in range(4)}
    assert len(seeds) == 4  # a fresh one each time, not the executor's default of 0


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_the_table_has_the_model_s_type(record, config, monkeypatch, dtype, expected) -> None:
    install(monkeypatch)
    request = request_of([1, (2, 2), 1])
    made = RequestBuilder(dataclasses.replace(record, dtype=dtype), config, (END,)).build(request, 5)
    table = made.prompt_tuning_config.embedding_table
    assert table.dtype == expected and made.stop_words is None
    torch.testing.assert_close(table.float(), torch.from_numpy(request.visual_rows), rtol=0.01, atol=0)


def test_too_large_a_top_k_is_refused_where_it_would_be_clipped(record, config) -> None:
    large = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=5000))
    builder = RequestBuilder(record, large, (END,))
    with pytest.raises(InvalidRequest, match="top_k is 1025, expected at most 1024"):
        builder.require_valid(request_of([4], temperature=1.0, top_k=1025))
    builder.require_valid(request_of([4], temperature=1.0, top_k=1024))
    builder.require_valid(request_of([4], top_k=2000))  # greedy


def test_extra_ids_come_from_every_level_of_the_table(builder: RequestBuilder) -> None:
    request = request_of([1, (1, 1), 1])
    changed = request.visual_rows.copy()
    changed[STEP - 1] *= 2
    made = [builder.build(dataclasses.replace(request, visual_rows=rows), 5) for rows in (request.visual_rows, changed)]
    first, second = (one.prompt_tuning_config.input_token_extra_ids for one in made)
    assert (first[0], first[2]) == (second[0], second[2]) == (0, 0) and first[1] != second[1]


def ids_of(request: GenerationRequest) -> np.ndarray:
    rows = request.visual_rows.astype(np.float16).view(np.uint8)
    return extra_ids(request.token_ids, request.position_ids, rows, VOCAB, STEP)


def test_extra_ids_tell_pictures_apart_and_find_equal_ones() -> None:
    first = request_of([3, (2, 2), 2, (2, 2), 1])
    ids = ids_of(first)
    visual = first.token_ids >= VOCAB
    assert ids.dtype == np.uint64 and not ids[~visual].any() and ids[visual].all()
    assert len(set(ids[visual][:4])) == len(set(ids[visual][4:])) == 1 and ids[visual][0] != ids[visual][4]
    again = dataclasses.replace(first, sampling=SamplingParams(max_tokens=1))
    assert np.array_equal(ids_of(again), ids)
    changed = first.visual_rows.copy()
    changed[-1, -1] += 1  # one value of the last level of the last token
    other = ids_of(dataclasses.replace(first, visual_rows=changed))
    assert np.array_equal(other[:8], ids[:8]) and (other[visual][4:] != ids[visual][4:]).all()
    assert np.array_equal(ids_of(dataclasses.replace(first, visual_rows=np.roll(first.visual_rows, 16, 0)))[visual],
                          np.roll(ids[visual], 4))


def test_extra_ids_tell_shapes_apart() -> None:
    wide, tall = request_of([2, (2, 3), 1]), request_of([2, (3, 2), 1])
    assert np.array_equal(wide.token_ids, tall.token_ids)
    same_rows = dataclasses.replace(tall, visual_rows=wide.visual_rows)
    assert (ids_of(same_rows) != ids_of(wide))[2:8].all()
