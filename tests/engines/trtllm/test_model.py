"""The network that the model class defines gives the logits of `transformers`, whatever shares a step with what."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from engines.trtllm.executor.rotary_table import RotaryTables
from export.trtllm.parallel import Parallelism
from qwen3vl.config import ModelConfig
from tests.engines.trtllm.stand_in.builder import load_engine
from tests.engines.trtllm.stand_in.session import Request, Session
from tests.engines.trtllm.support import (
    ANSWER,
    LENGTH,
    Case,
    build,
    export_checkpoint,
    make_case_checkpoint,
    make_cases,
    use_stand_in,
)

TOLERANCE = 1e-4  # of the largest value
LEVELS = 3
PATHS = pytest.mark.parametrize("plugin", [True, False], ids=["plugin", "operations"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_case_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def cases(checkpoint: Path) -> list[Case]:
    return make_cases(checkpoint)


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("build"))


def open_session(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str, plugin: bool) -> Session:
    use_stand_in(monkeypatch)
    assert build(folder, *options, plugin=plugin) == 0
    return Session(folder / "engines/trtllm")


def request_of(case: Case, config: ModelConfig, rows: torch.Tensor | None = None) -> Request:
    table = RotaryTables(config.text, LENGTH).table(case.inputs.position_ids, case.inputs.rope_delta)
    return Request(case.inputs.token_ids.tolist(), case.rows if rows is None else rows, torch.from_numpy(table),
                   case.inputs.rope_delta)


def assert_close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape and reference.abs().max() > 0.5
    assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()


def prompt_logits(session: Session, cases: list[Case], config: ModelConfig) -> list[torch.Tensor]:
    """Logits of every prompt token, all prompts in one step."""
    requests = [request_of(case, config) for case in cases]
    logits = session.step([(request, request.prompt_length) for request in requests])
    return list(logits.split([request.prompt_length for request in requests]))


@PATHS
def test_packed_prompts_give_the_logits_of_transformers(checkpoint, cases, exported, monkeypatch, plugin) -> None:
    session = open_session(monkeypatch, exported, "--context-logits", plugin=plugin)
    config = ModelConfig.from_checkpoint(checkpoint)
    # Whichever place in the batch a request has, its rows are found.
    for order in ([0, 1, 2], [2, 0, 1], [1, 2], [1, 1, 1, 2], [0]):
        chosen = [cases[index] for index in order]
        for ours, case in zip(prompt_logits(session, chosen, config), chosen, strict=True):
            assert_close(ours[:, :301], case.logits)
    plugins = getattr(session.engines[0].network.trt_network, "plugins", [])
    assert ({(part.level, part.vocab_size) for part in plugins} == {(1, 301), (2, 301), (3, 301)}) is plugin


@PATHS
def test_any_chunks_and_mixture_of_requests_give_the_same_answers(checkpoint, cases, exported, monkeypatch,
                                                                  plugin) -> None:
    """Prompts in chunks beside answers in progress, requests in changing places: logits and greedy tokens stay."""
    session, config = open_session(monkeypatch, exported, plugin=plugin), ModelConfig.from_checkpoint(checkpoint)
    for seed in range(4):
        choose = random.Random(seed)
        waiting = [(request_of(case, config), case) for case in choose.choices(cases, k=6)]
        running: list[tuple[Request, Case]] = []
        while waiting or running:
            while waiting and len(running) < 4 and choose.random() < 0.7:
                running.append(waiting.pop())
            choose.shuffle(running)
            work = [(request, min(choose.choice([1, 7, 40, 500]), request.prompt_length - request.done)
                     if request.done < request.prompt_length else 1) for request, _ in running]
            work.sort(key=lambda item: item[0].done >= item[0].prompt_length)
            if not work:
                continue
            case_of = {id(request): case for request, case in running}
            for (request, _), logits in zip(work, session.step(work), strict=True):
                case = case_of[id(request)]
                if request.done == request.prompt_length:
                    assert_close(logits[:301], case.logits[-1])
                if request.done >= request.prompt_length:
                    request.token_ids.append(int(logits.argmax()))
            for request, case in list(running):
                if len(request.token_ids) == request.prompt_length + ANSWER:
                    assert request.token_ids[request.prompt_length :] == case.answer
                    running.remove((request, case))


@PATHS
@pytest.mark.parametrize(("tp", "pp", "ep"), [(2, 1, 2), (4, 1, 2), (1, 2, 1), (2, 2, 1)])
def test_engines_of_several_gpus(checkpoint, cases, tmp_path, monkeypatch, plugin, tp, pp, ep) -> None:
    folder = export_checkpoint(checkpoint, tmp_path, Parallelism(tp, pp, ep))
    session = open_session(monkeypatch, folder, "--context-logits", plugin=plugin)
    for ours, case in zip(prompt_logits(session, cases, ModelConfig.from_checkpoint(checkpoint)), cases, strict=True):
        assert_close(ours[:, :301], case.logits)


def test_without_any_row_of_the_table_logits_differ(checkpoint, cases, exported, monkeypatch) -> None:
    session, config = open_session(monkeypatch, exported, plugin=True), ModelConfig.from_checkpoint(checkpoint)
    for level in range(1 + LEVELS):
        rows = cases[1].rows.clone()
        rows[level :: 1 + LEVELS] = 0
        request = request_of(cases[1], config, rows)
        assert (session.step([(request, request.prompt_length)])[0, :301] - cases[1].logits[-1]).abs().max() > 0.05


@pytest.mark.parametrize(("shape", "options"), [
    ({"vision": {"deepstack_visual_indexes": [0]}}, {}),
    ({"vision": {"deepstack_visual_indexes": [0, 1, 2, 3]}}, {"dtype": "float16"}),
], ids=["one level", "four levels, float16"])
def test_other_models(tmp_path, monkeypatch, shape, options) -> None:
    checkpoint = make_case_checkpoint(tmp_path / "checkpoint", **shape)
    case, config = make_cases(checkpoint)[2], ModelConfig.from_checkpoint(checkpoint)
    folder = export_checkpoint(checkpoint, tmp_path / "build", **options)
    for plugin in (True, False):
        session = open_session(monkeypatch, folder, "--context-logits", plugin=plugin)
        assert_close(prompt_logits(session, [case], config)[0][:, :301], case.logits)
        assert session.model_config["deepstack_levels"] == config.vision.deepstack_levels
        monkeypatch.undo()


def test_only_the_first_stage_adds_rows(checkpoint, tmp_path, monkeypatch) -> None:
    folder = export_checkpoint(checkpoint, tmp_path, Parallelism(pp=2))
    session = open_session(monkeypatch, folder, plugin=True)
    first, second = (engine.network for engine in session.engines)
    assert len(first.trt_network.plugins) == LEVELS and not hasattr(second.trt_network, "plugins")
    assert "input_ids" in first.inputs and "input_ids" not in second.inputs
    assert "mrope_rotary_cos_sin" in second.inputs


def test_queries_and_keys_are_normalised_with_the_model_s_epsilon(exported, monkeypatch) -> None:
    session = open_session(monkeypatch, exported, plugin=False)
    epsilon = json.loads((exported / "trtllm/config.json").read_text())["norm_epsilon"]
    for layer in load_engine(exported / "engines/trtllm/rank0.engine").model.transformer.layers:
        assert layer.attention.q_layernorm.eps == layer.attention.k_layernorm.eps == epsilon == 1e-6
    assert session.model_config["norm_epsilon"] == epsilon
