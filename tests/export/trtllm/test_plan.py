"""The memory plan agrees with what is really written, and with the published models' sizes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import Qwen3VLMoeForConditionalGeneration

from bench.synthetic_checkpoint import config_30b_a3b
from client.cli import main
from export.trtllm.exporter import export_trtllm, rank_file
from export.trtllm.options import TrtllmOptions
from export.trtllm.parallel import Parallelism
from export.trtllm.plan import Deployment, choose_parallelism, plan, vision_parameters
from qwen3vl.config import ModelConfig, VisionConfig
from qwen3vl.errors import ArtifactError
from tests.support.checkpoints import make_checkpoint, make_config
from tests.support.processor_folder import add_processor_files

LENGTH = 20480
DEPLOYMENT = Deployment(max_batch=8, max_visual_tokens=4096, max_num_tokens=8192)


@pytest.fixture(scope="module", params=["30B-A3B", "235B-A22B"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with config.json and nothing else, and the number of the model's parameters, counted by transformers."""
    config = config_30b_a3b()
    if request.param == "235B-A22B":
        config.text_config.update({"hidden_size": 4096, "num_hidden_layers": 94, "num_attention_heads": 64,
                                   "moe_intermediate_size": 1536, "intermediate_size": 12288})
        config.vision_config.out_hidden_size = 4096
    folder = tmp_path_factory.mktemp(request.param)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = Qwen3VLMoeForConditionalGeneration(config)
    return folder, sum(parameter.numel() for parameter in model.parameters())


def test_weights_of_one_gpu_are_the_model_s_parameters(published: tuple[Path, int]) -> None:
    folder, parameters = published
    config = ModelConfig.from_checkpoint(folder)
    whole = plan(config, TrtllmOptions(), DEPLOYMENT)
    text = config.text
    router = text.num_hidden_layers * text.num_experts * text.hidden_size  # in float32: two bytes more
    assert whole.weights + whole.vision_encoder == 2 * (parameters + router)


def test_cache_and_tables_follow_their_formulae(published: tuple[Path, int]) -> None:
    config = ModelConfig.from_checkpoint(published[0])
    text, split = config.text, plan(config, TrtllmOptions(Parallelism(tp=2)), DEPLOYMENT)
    assert split.cache_per_token == 2 * text.num_hidden_layers * 4 * 128 * 2 // 2
    assert split.prompt_tables == 2 * (8 * 4 * 4096) * text.hidden_size * 2
    assert split.mrope_tables == 2 * 8 * (LENGTH * 128) * 4
    # 8 GPUs on 4 key-value heads repeat them: no less cache than 4 GPUs.
    four, eight = (plan(config, TrtllmOptions(Parallelism(tp=tp)), DEPLOYMENT).cache_per_token for tp in (4, 8))
    assert four == eight == split.cache_per_token // 2


@pytest.mark.parametrize(("weight_only", "least", "most"), [("int8", 0.50, 0.54), ("int4", 0.25, 0.29)])
def test_quantised_weights_shrink_but_for_embeddings_and_router(published, weight_only, least, most) -> None:
    config = ModelConfig.from_checkpoint(published[0])
    full = plan(config, TrtllmOptions(), DEPLOYMENT).weights
    assert least < plan(config, TrtllmOptions(weight_only=weight_only), DEPLOYMENT).weights / full < most


def test_a_split_s_weights_are_the_size_of_its_largest_file(tmp_path: Path) -> None:
    shape = {"num_attention_heads": 8, "vocab_size": 301}
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint", dtype=torch.bfloat16, text=shape))
    options = TrtllmOptions(Parallelism(tp=2, pp=2, ep=2))
    export_trtllm(checkpoint, tmp_path / "build", options)
    sizes = []
    for number in range(4):
        path = tmp_path / "build" / rank_file(number)
        with open(path, "rb") as stream:
            sizes.append(path.stat().st_size - 8 - int.from_bytes(stream.read(8), "little"))
    assert plan(ModelConfig.from_checkpoint(checkpoint), options, DEPLOYMENT).weights == max(sizes)


def test_vision_parameters_are_counted_at_other_shapes() -> None:
    config = make_config(vision={"depth": 7, "deepstack_visual_indexes": [0, 5]})
    with torch.device("meta"):
        visual = Qwen3VLMoeForConditionalGeneration(config).model.visual
    raw = {"hidden_size": 48, "num_heads": 4, "depth": 7, "intermediate_size": 80, "out_hidden_size": 64,
           "patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 144}
    counted = vision_parameters(VisionConfig(**raw, deepstack_visual_indexes=(0, 5)))
    assert counted == sum(math.prod(parameter.shape) for parameter in visual.parameters())


def test_a_division_is_chosen_that_the_model_allows(tmp_path: Path) -> None:
    make_config().save_pretrained(tmp_path)  # 6 heads on 2 key-value heads, 5 layers, 3 DeepStack levels
    config = ModelConfig.from_checkpoint(tmp_path)
    assert choose_parallelism(config, 2) == Parallelism(tp=2)
    assert choose_parallelism(config, 4) == Parallelism(tp=2, pp=2)  # 6 heads do not go into 4
    with pytest.raises(ArtifactError, match="no division among 5 GPUs"):
        choose_parallelism(config, 5)


def test_the_command_shows_a_table_from_config_json_alone(published, capsys: pytest.CaptureFixture) -> None:
    folder, _ = published
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert main(["plan", str(folder), "--target", "trtllm", "--gpus", "1,8,97", "--gpu-memory", "24,192"]) == 0
    header, one, eight, *rest = capsys.readouterr().out.splitlines()
    assert header.split()[-4:] == ["24", "GB", "192", "GB"]
    assert one.split()[:4] == ["1", "1", "1", "1"] and eight.split()[:4] == ["8", "8", "1", "1"]
    assert one.split()[-2] == "-" and eight.endswith("*")
    assert "left out: no division among 97 GPUs" in rest[-1]


def test_plan_refuses_what_export_refuses(published, capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", str(published[0]), "--tp", "3"]) == 1
    assert "--tp is 3, expected a divisor of num_attention_heads" in capsys.readouterr().err
    assert main(["plan", str(published[0]), "--max-batch", "0"]) == 1
    assert "--max-batch is 0" in capsys.readouterr().err
