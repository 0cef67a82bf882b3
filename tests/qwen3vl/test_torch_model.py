"""The torch modules agree with `transformers`, at every shape and for every kind of request."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3vl.errors import CheckpointError
from qwen3vl.positions import interpolation, vision_positions
from qwen3vl.processor import ModelInputs, Processor
from qwen3vl.torch_decoder import KeyValueCache
from qwen3vl.torch_model import TorchModel
from tests.support.checkpoints import TEXT, make_checkpoint
from tests.support.pictures import gif, png
from tests.support.processor_folder import add_processor_files
from tests.support.reference_model import ReferenceModel

TOLERANCE = 1e-4  # of the largest value


def rope(*sections: int) -> dict:
    return {"rope_parameters": {**TEXT["rope_parameters"], "mrope_section": list(sections)}}


SHAPES = {
    "default": {},
    "no DeepStack": {"vision": {"deepstack_visual_indexes": []}},
    "one level": {"vision": {"deepstack_visual_indexes": [0]}},
    "five levels, one for each layer": {"vision": {"depth": 7, "deepstack_visual_indexes": [0, 1, 3, 5, 6]}},
    "head sizes": {"text": {"head_dim": 32, "num_attention_heads": 3, "num_key_value_heads": 1, **rope(6, 5, 5)},
                   "vision": {"hidden_size": 96, "num_heads": 2}},
    "head size of hidden / heads, no grouping": {
        "text": {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 4, **rope(4, 2, 2)}},
    "tied embeddings": {"tie_word_embeddings": True},
    "older expert layout": {"experts_transposed": True, "shards": 3},
    "older layout, square gate_up": {"text": {"moe_intermediate_size": 32}, "experts_transposed": True},
    "newer layout, square gate_up": {"text": {"moe_intermediate_size": 32}},
    "older layout, square down": {"text": {"moe_intermediate_size": 64}, "experts_transposed": True},
    "dense layers by mlp_only_layers": {"text": {"mlp_only_layers": [0, 3]}},
    "dense layers by decoder_sparse_step": {"text": {"decoder_sparse_step": 2}},
    "top 1 of 4, attention bias": {"text": {"num_experts": 4, "num_experts_per_tok": 1, "attention_bias": True}},
    "bfloat16 file": {"dtype": torch.bfloat16},
}


@dataclass(frozen=True)
class Request:
    content: list[dict]
    images: list[bytes]
    videos: list[bytes]
    video_places: tuple[int, ...] = ()


def part(kind: str) -> dict:
    return {"type": kind}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


REQUESTS = {
    "text": Request([text("Hello, who are you?")], [], []),
    "one image": Request([part("image"), text("What is this?")], [png(1, 96, 128)], []),
    "images of different sizes": Request([part("image"), text("and"), part("image"), part("image"), text("Which?")],
                                         [png(2, 64, 96), png(3, 128, 64), png(4, 96, 96)], []),
    "video": Request([part("video"), text("What moved?")], [], [gif(5, frames=6)], (0,)),
    "mixture": Request([text("First"), part("image"), part("video"), text("then"), part("image"), text("Compare.")],
                       [png(6, 64, 64), png(7, 96, 160)], [gif(8, frames=5, size=96)], (1,)),
}


@dataclass(frozen=True)
class Models:
    processor: Processor
    ours: TorchModel
    reference: ReferenceModel

    def inputs(self, request: Request) -> ModelInputs:
        return self.processor(messages=[{"role": "user", "content": request.content}], images=request.images,
                              videos=request.videos)


@pytest.fixture(scope="module", params=SHAPES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    shape = SHAPES[request.param]
    folder = add_processor_files(make_checkpoint(tmp_path_factory.mktemp("checkpoint"), **shape))
    # The reference gets the same weights in the newer layout, as it takes a square gate_up for that whatever down_proj
    # says.
    newer = make_checkpoint(tmp_path_factory.mktemp("newer"), **{**shape, "experts_transposed": False})
    return Models(Processor.from_checkpoint(folder), TorchModel.from_checkpoint(folder),
                  ReferenceModel(add_processor_files(newer)))


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = add_processor_files(make_checkpoint(tmp_path_factory.mktemp("checkpoint")))
    return Models(Processor.from_checkpoint(folder), TorchModel.from_checkpoint(folder), ReferenceModel(folder))


def assert_close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    assert reference.abs().max() > 0.5, "nothing to compare"
    assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()


@torch.inference_mode()
def logits(model: TorchModel, inputs: ModelInputs, rows: torch.Tensor) -> torch.Tensor:
    """[S, vocab_size]"""
    token_ids, position_ids = torch.from_numpy(inputs.token_ids)[None].long(), torch.from_numpy(inputs.position_ids)
    return model.decoder(token_ids, rows, position_ids[:, None].long())[0]


@torch.inference_mode()
def rows_of(model: TorchModel, inputs: ModelInputs) -> torch.Tensor:
    return model.visual_rows(inputs.patches, inputs.grids)


@pytest.mark.parametrize("name", [name for name, request in REQUESTS.items() if request.images or request.videos])
def test_visual_rows_agree_at_every_level(models: Models, name: str) -> None:
    inputs = models.inputs(REQUESTS[name])
    reference = models.reference.visual_rows(inputs)
    ours = rows_of(models.ours, inputs).unflatten(0, (-1, models.ours.config.rows_per_token))
    for level in range(models.ours.config.rows_per_token):
        assert_close(ours[:, level], reference[:, level])


@pytest.mark.parametrize("name", REQUESTS)
def test_logits_agree(models: Models, name: str) -> None:
    request = REQUESTS[name]
    inputs = models.inputs(request)
    assert_close(logits(models.ours, inputs, rows_of(models.ours, inputs)),
                 models.reference.logits(inputs, request.video_places))


@pytest.mark.parametrize("name", REQUESTS)
def test_greedy_text_is_the_same(default: Models, name: str) -> None:
    request = REQUESTS[name]
    inputs = default.inputs(request)
    assert default.ours.generate(inputs, 64) == default.reference.generate(inputs, 64, request.video_places)


def test_generation_ends_with_an_end_token(default: Models) -> None:
    inputs = default.inputs(REQUESTS["one image"])
    endless = default.ours.generate(inputs, 20)
    assert default.ours.generate(inputs, 20, (endless[7],)) == endless[:endless.index(endless[7]) + 1]


def test_without_deepstack_rows_logits_differ(default: Models) -> None:
    inputs = default.inputs(REQUESTS["images of different sizes"])
    rows = rows_of(default.ours, inputs)
    reference = logits(default.ours, inputs, rows)
    for level in range(default.ours.config.rows_per_token):
        zeroed = rows.clone()
        zeroed[level::default.ours.config.rows_per_token] = 0
        assert (logits(default.ours, inputs, zeroed) - reference).abs().max() > 0.1, level


@pytest.mark.parametrize("split", [(1,), (30,), (17, 18, 50)])
def test_any_split_of_a_prompt_gives_the_same_logits(default: Models, split: tuple[int, ...]) -> None:
    inputs = default.inputs(REQUESTS["mixture"])
    rows, cache = rows_of(default.ours, inputs), KeyValueCache()
    token_ids = torch.from_numpy(inputs.token_ids)[None].long()
    position_ids = torch.from_numpy(inputs.position_ids)[:, None].long()
    ends = [0, *split, inputs.token_ids.size]
    with torch.inference_mode():
        parts = [default.ours.decoder(token_ids[:, a:b], rows, position_ids[:, :, a:b], cache)[0]
                 for a, b in itertools.pairwise(ends)]
    assert_close(torch.cat(parts), logits(default.ours, inputs, rows))


def test_padding_behind_shorter_prompts_changes_nothing(default: Models) -> None:
    requests = [default.inputs(REQUESTS[name]) for name in ("text", "one image")]
    rows = torch.cat([rows_of(default.ours, inputs) for inputs in requests])
    length = max(inputs.token_ids.size for inputs in requests)
    token_ids = torch.zeros(2, length, dtype=torch.long)
    position_ids = torch.zeros(3, 2, length, dtype=torch.long)
    for i, inputs in enumerate(requests):
        token_ids[i, :inputs.token_ids.size] = torch.from_numpy(inputs.token_ids)
        position_ids[:, i, :inputs.token_ids.size] = torch.from_numpy(inputs.position_ids)
    lengths = torch.tensor([inputs.token_ids.size for inputs in requests])
    with torch.inference_mode():
        together = default.ours.decoder(token_ids, rows, position_ids, key_mask=torch.arange(length) < lengths[:, None],
                                        logit_positions=lengths[:, None] - 1)
    for i, inputs in enumerate(requests):
        assert_close(together[i], logits(default.ours, inputs, rows_of(default.ours, inputs))[-1:])


def test_frames_of_different_grids_padded_to_one_length_keep_their_rows(default: Models) -> None:
    vision, merge = default.ours.config.vision, default.ours.config.vision.spatial_merge_size
    grids, longest = ((4, 6), (8, 4), (2, 2)), 32
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (h * w, vision.patch_dim), dtype=np.uint8) for h, w in grids]
    padded = [np.zeros((3, longest, n), dtype) for n, dtype in ((vision.patch_dim, np.uint8), (2, np.int32),
                                                               (4, np.int32), (4, np.float32), (1, bool))]
    for i, (h, w) in enumerate(grids):
        values = (frames[i], vision_positions(h, w, merge), *interpolation(h, w, vision.grid_side, merge), True)
        for target, value in zip(padded, values, strict=True):
            target[i, :h * w] = value
    *arguments, mask = map(torch.from_numpy, padded)
    with torch.inference_mode():
        rows = default.ours.vision_encoder(*arguments, mask[..., 0]).unflatten(0, (3, -1))
        for i, (h, w) in enumerate(grids):
            alone = default.ours.visual_rows(frames[i], np.array([[1, h, w]]))
            assert_close(rows[i, :len(alone)], alone)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = add_processor_files(make_checkpoint(tmp_path))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.language_model.layers.1.self_attn.q_proj.weight"] = torch.zeros(3, 64)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.q_proj\.weight has shape \[3, 64\].*\[144, 64\]"):
        TorchModel.from_checkpoint(folder)


def test_router_shares_are_those_of_the_top_experts(default: Models) -> None:
    router = default.ours.decoder.layers[0].mlp.gate
    with torch.inference_mode():
        shares = router(torch.randn(200, 64, generator=torch.Generator().manual_seed(0)))
    assert ((shares > 0).sum(-1) == 2).all()
    assert torch.allclose(shares.sum(-1), torch.ones(200))
    assert len(np.unique(shares.argmax(-1))) == 8, "the test's router should use every expert"
