"""A TensorRT-LLM checkpoint, read by an independent reader, gives the logits of `transformers`, however it is split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.trtllm.exporter import export_trtllm
from export.trtllm.options import TrtllmOptions
from export.trtllm.parallel import Parallelism
from qwen3vl.processor import ModelInputs, Processor
from tests.export.trtllm.sharded_model import ShardedModel
from tests.support.checkpoints import TEXT, make_checkpoint
from tests.support.pictures import gif, png
from tests.support.processor_folder import add_processor_files
from tests.support.reference_model import ReferenceModel

TOLERANCE = 1e-4  # of the largest value
LEVELS = 3
# 8 query heads on 2 key-value heads, so that --tp 4 repeats them; a vocabulary that 2 and 4 GPUs have to pad.
SHAPE = {"num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 301}
SPLITS = [(1, 1, 1), (2, 1, 1), (2, 1, 2), (4, 1, 1), (4, 1, 2), (4, 1, 4), (1, 2, 1), (2, 2, 1), (4, 2, 2)]


def reference_case(folder: Path, **shape) -> tuple[Path, ModelInputs, torch.Tensor, torch.Tensor]:
    """A checkpoint of bfloat16 values and, for a prompt of images, a video and text, table and logits.

    Returns:
        The checkpoint, the prepared request, the prompt table [R, H] and transformers' logits [S, vocab_size].
    """
    checkpoint = add_processor_files(make_checkpoint(folder / "checkpoint", dtype=torch.bfloat16, **shape))
    # The reference takes a square gate_up for the newer layout: it reads the same weights in that one.
    newer = checkpoint
    if shape.get("experts_transposed"):
        newer = add_processor_files(make_checkpoint(folder / "newer", dtype=torch.bfloat16,
                                                    **{**shape, "experts_transposed": False}))
    content = [{"type": kind} for kind in ("image", "video", "image")]
    inputs = Processor.from_checkpoint(checkpoint)(
        messages=[{"role": "user", "content": [*content, {"type": "text", "text": "Compare them."}]}],
        images=[png(6, 64, 64), png(7, 96, 96)], videos=[gif(8, frames=4, size=64)])
    reference = ReferenceModel(newer)
    rows = reference.visual_rows(inputs)
    return checkpoint, inputs, rows.flatten(0, 1), reference.logits(inputs, videos=(1,))


def run(build: Path, inputs: ModelInputs, table: torch.Tensor,
        levels: int = LEVELS) -> tuple[torch.Tensor, ShardedModel]:
    model = ShardedModel(build / "trtllm", levels)
    return model.logits(torch.from_numpy(inputs.token_ids).long(), torch.from_numpy(inputs.position_ids), table), model


def assert_close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape and reference.abs().max() > 0.5
    assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelInputs, torch.Tensor, torch.Tensor]:
    return reference_case(tmp_path_factory.mktemp("case"), text=SHAPE)


@pytest.mark.parametrize(("tp", "pp", "ep"), SPLITS)
def test_every_split_gives_the_logits_of_transformers(case, tmp_path: Path, tp: int, pp: int, ep: int) -> None:
    checkpoint, inputs, table, expected = case
    assert (inputs.token_ids >= SHAPE["vocab_size"]).sum() * (1 + LEVELS) == len(table)
    export_trtllm(checkpoint, tmp_path, TrtllmOptions(Parallelism(tp, pp, ep), max_length=512))
    logits, model = run(tmp_path, inputs, table)
    assert_close(logits, expected)
    assert not any(model.unread), "tensors that the format does not have"
    types = {name.rpartition("layers.")[2].partition(".")[2]: tensor.dtype for name, tensor in model.files[0].items()}
    assert types.pop("mlp.router.weight") == torch.float32
    assert set(types.values()) == {torch.bfloat16}


@pytest.mark.parametrize("shape", [
    {"text": SHAPE, "tie_word_embeddings": True},
    {"text": {**SHAPE, "moe_intermediate_size": 32}, "experts_transposed": True},
    {"text": {**SHAPE, "moe_intermediate_size": 64}, "experts_transposed": True, "shards": 3},
    {"text": {**SHAPE, "num_experts_per_tok": 1, "num_key_value_heads": 4}},
    {"text": {**SHAPE, "head_dim": 32, "rope_parameters": {**TEXT["rope_parameters"], "mrope_section": [6, 5, 5]}},
     "vision": {"deepstack_visual_indexes": [0]}},
], ids=["tied", "older layout, square gate_up", "older layout, square down, shards", "top 1", "head size, one level"])
def test_other_models(tmp_path: Path, shape: dict) -> None:
    checkpoint, inputs, table, expected = reference_case(tmp_path, **shape)
    export_trtllm(checkpoint, tmp_path / "build", TrtllmOptions(Parallelism(tp=2, pp=2, ep=2)))
    levels = len(shape.get("vision", {}).get("deepstack_visual_indexes", range(LEVELS)))
    assert_close(run(tmp_path / "build", inputs, table, levels)[0], expected)


def test_without_any_row_of_the_table_logits_differ(case, tmp_path: Path) -> None:
    checkpoint, inputs, table, expected = case
    export_trtllm(checkpoint, tmp_path, TrtllmOptions(Parallelism(tp=2)))
    for level in range(1 + LEVELS):
        zeroed = table.clone()
        zeroed[level :: 1 + LEVELS] = 0
        assert (run(tmp_path, inputs, zeroed)[0] - expected).abs().max() > 0.1, level


def test_float16_holds_the_checkpoint_s_values_rounded(case, tmp_path: Path) -> None:
    checkpoint, inputs, table, expected = case
    export_trtllm(checkpoint, tmp_path, TrtllmOptions(Parallelism(tp=2, ep=2), dtype="float16"))
    logits, model = run(tmp_path, inputs, table)
    assert model.files[1]["transformer.layers.4.mlp.fc.weight"].dtype == torch.float16
    assert_close(logits, expected)  # 8 bits of mantissa fit in 11
    assert np.isfinite(logits).all()
