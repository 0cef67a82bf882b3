"""config.json is understood in its 4.x and 5.x layouts, and every inconsistency names its field."""

import copy
import json

import pytest
from transformers import Qwen3VLMoeConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextDecoderLayer, Qwen3VLMoeTextMLP

from qwen3vl.config import ModelConfig
from qwen3vl.errors import CheckpointError
from tests.support.checkpoints import make_config

# Qwen/Qwen3-VL-30B-A3B-Instruct as published (transformers 4.57).
PUBLISHED = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"], "model_type": "qwen3_vl_moe",
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652,
    "vision_end_token_id": 151653, "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_vl_moe_text", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 262144,
        "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06, "rope_theta": 5000000, "vocab_size": 151936,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}},
    "vision_config": {
        "model_type": "qwen3_vl_moe", "deepstack_visual_indexes": [8, 16, 24], "depth": 27,
        "hidden_act": "gelu_pytorch_tanh", "hidden_size": 1152, "in_channels": 3, "intermediate_size": 4304,
        "num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": 2048, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2}}


def parse(folder, values):
    (folder / "config.json").write_text(json.dumps(values))
    return ModelConfig.from_checkpoint(folder)


def changed(path, value, base=PUBLISHED):
    values = copy.deepcopy(base)
    *sections, field = path.split(".")
    section = values
    for name in sections:
        section = section[name]
    if value is KeyError:
        del section[field]
    else:
        section[field] = value
    return values


def test_published(tmp_path):
    config = parse(tmp_path, PUBLISHED)
    assert config.rows_per_token == 4
    assert (config.text.head_dim, config.text.num_experts, config.text.num_experts_per_tok) == (128, 128, 8)
    assert (config.text.rope_theta, config.text.mrope_section) == (5e6, (24, 20, 20))
    assert config.tie_word_embeddings is False
    vision = config.vision
    assert (vision.head_dim, vision.patch_dim, vision.merge_unit, vision.merged_size, vision.grid_side,
            vision.deepstack_levels) == (72, 1536, 4, 4608, 48, 3)
    assert vision.rope_theta == 10000.0
    assert all(config.text.is_sparse(i) for i in range(48))


def test_as_transformers_saves_it_again(tmp_path):
    """transformers 5 moves and renames fields; the meaning stays."""
    published = parse(tmp_path, PUBLISHED)
    config = Qwen3VLMoeConfig.from_pretrained(tmp_path)
    config.architectures = PUBLISHED["architectures"]
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "rope_theta" not in saved["text_config"]  # so that this says something
    assert "num_experts" not in saved["text_config"]
    assert ModelConfig.from_checkpoint(tmp_path) == published


@pytest.mark.parametrize("text", [{}, {"mlp_only_layers": [1, 3]}, {"decoder_sparse_step": 2},
                                  {"decoder_sparse_step": 2, "mlp_only_layers": [3]}, {"decoder_sparse_step": 9}])
def test_which_layers_are_sparse(tmp_path, text):
    config = make_config(text=text)
    config.save_pretrained(tmp_path)
    ours = ModelConfig.from_checkpoint(tmp_path).text
    for i in range(config.text_config.num_hidden_layers):
        dense = isinstance(Qwen3VLMoeTextDecoderLayer(config.text_config, i).mlp, Qwen3VLMoeTextMLP)
        assert ours.is_sparse(i) is not dense


def test_tied_embeddings_are_decided_at_the_top(tmp_path):
    values = changed("text_config.tie_word_embeddings", True)
    assert parse(tmp_path, values).tie_word_embeddings is False
    assert parse(tmp_path, changed("tie_word_embeddings", True, values)).tie_word_embeddings is True


def test_derived_defaults(tmp_path):
    text = parse(tmp_path, changed("text_config.head_dim", KeyError,
                                   changed("text_config.rope_scaling.mrope_section", [12, 10, 10]))).text
    assert text.head_dim == 64
    assert parse(tmp_path, changed("text_config.num_key_value_heads", KeyError)).text.num_key_value_heads == 32


@pytest.mark.parametrize("vision", [{"deepstack_visual_indexes": []}, {"deepstack_visual_indexes": [0, 4]}])
def test_any_number_of_deepstack_levels(tmp_path, vision):
    make_config(vision=vision).save_pretrained(tmp_path)
    config = ModelConfig.from_checkpoint(tmp_path)
    assert config.vision.deepstack_visual_indexes == tuple(vision["deepstack_visual_indexes"])
    assert config.rows_per_token == 1 + len(vision["deepstack_visual_indexes"])


def test_round_trip(tmp_path):
    config = parse(tmp_path, PUBLISHED)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("path", "value", "message"), [
    ("architectures", ["Qwen3VLForConditionalGeneration"], r"architectures is \['Qwen3VLForConditionalGeneration'\]"),
    ("architectures", None, r"architectures is \[\], expected"),
    ("text_config", None, "text_config is None, expected an object"),
    ("vision_config", KeyError, "vision_config is None, expected an object"),
    ("image_token_id", KeyError, "image_token_id is None, expected a whole number"),
    ("image_token_id", 151936, "image_token_id is 151936, expected a token id below vocab_size = 151936"),
    ("text_config.hidden_size", KeyError, "text_config.hidden_size is None, expected a whole number"),
    ("text_config.hidden_size", "2048", "text_config.hidden_size is '2048', expected a whole number"),
    ("text_config.hidden_size", 2048.0, "text_config.hidden_size is 2048.0, expected a whole number"),
    ("text_config.hidden_size", True, "text_config.hidden_size is True, expected a whole number"),
    ("text_config.hidden_size", 1024, "vision_config.out_hidden_size is 2048, expected text_config.hidden_size = 1024"),
    ("text_config.num_hidden_layers", 0, "text_config.num_hidden_layers is 0, expected a number above 0"),
    ("text_config.num_hidden_layers", 2, "deepstack_visual_indexes is .*, expected at most num_hidden_layers = 2"),
    ("text_config.num_key_value_heads", 5, "num_key_value_heads is 5, expected a divisor of num_attention_heads = 32"),
    ("text_config.head_dim", 127, "text_config.head_dim is 127, expected an even number"),
    ("text_config.head_dim", 64, r"mrope_section is \[24, 20, 20\], expected three numbers that add up to .* = 32"),
    ("text_config.rope_scaling.mrope_section", [18, 24, 22], r"mrope_section is .* at most a third of head_dim / 2"),
    ("text_config.rope_scaling.mrope_section", [44, 20], "mrope_section is .*, expected three numbers"),
    ("text_config.rope_scaling.rope_type", "yarn", "rope_type is 'yarn', expected 'default'"),
    ("text_config.rope_theta", KeyError, "rope_theta is None, expected a number"),
    ("text_config.hidden_act", "gelu", "text_config.hidden_act is 'gelu', expected 'silu'"),
    ("text_config.num_experts_per_tok", 129, "num_experts_per_tok is 129, expected at most num_experts = 128"),
    ("text_config.moe_intermediate_size", KeyError, "moe_intermediate_size is 0, expected a number above 0"),
    ("text_config.num_experts", 0, None),
    ("vision_config.hidden_act", "silu", "vision_config.hidden_act is 'silu', expected 'gelu_pytorch_tanh'"),
    ("vision_config.in_channels", 4, r"vision_config.in_channels is 4, expected 3 \(RGB\)"),
    ("vision_config.num_heads", 7, "vision_config.num_heads is 7, expected a divisor of hidden_size = 1152"),
    ("vision_config.num_heads", 64, "vision_config.hidden_size / num_heads is 18, expected a multiple of 4"),
    ("vision_config.num_position_embeddings", 2305, "num_position_embeddings is 2305, expected a square number"),
    ("vision_config.deepstack_visual_indexes", [8, 8], r"deepstack_visual_indexes is \[8, 8\], expected increasing"),
    ("vision_config.deepstack_visual_indexes", [16, 8], r"deepstack_visual_indexes is \[16, 8\], expected increasing"),
    ("vision_config.deepstack_visual_indexes", [27], r"expected increasing block numbers below depth = 27"),
    ("vision_config.patch_size", 0, "vision_config.patch_size is 0, expected a number above 0"),
])
def test_inconsistencies(tmp_path, path, value, message):
    values = changed(path, value)
    if message is None:  # without experts every layer is dense
        assert not parse(tmp_path, values).text.is_sparse(0)
        return
    with pytest.raises(CheckpointError, match=f"config.json: .*{message}"):
        parse(tmp_path, values)


def test_dense_layers_need_a_width(tmp_path):
    values = changed("text_config.mlp_only_layers", [0], changed("text_config.intermediate_size", KeyError))
    with pytest.raises(CheckpointError, match="intermediate_size is 0, expected a number above 0"):
        parse(tmp_path, values)


@pytest.mark.parametrize("path", ["text_config.num_attention_heads", "text_config.num_key_value_heads",
                                  "text_config.rms_norm_eps", "text_config.rope_theta",
                                  "text_config.mlp_only_layers", "text_config.num_experts",
                                  "vision_config.deepstack_visual_indexes", "text_config.rope_scaling",
                                  "text_config.rope_scaling.mrope_section"])
def test_values_of_the_wrong_kind(tmp_path, path):
    """Never another exception than the project's."""
    with pytest.raises(CheckpointError, match=f"config.json: .*{path.split('.')[-1]} is 'many', expected"):
        parse(tmp_path, changed(path, "many"))


def test_unreadable_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json does not exist: pass the folder of a whole"):
        ModelConfig.from_checkpoint(tmp_path)
    for content, message in (("{", "cannot be read as JSON"), ("[]", "holds a JSON list, expected an object")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            ModelConfig.from_checkpoint(tmp_path)
