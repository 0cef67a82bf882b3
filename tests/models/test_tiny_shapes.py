"""The bundled checkpoint as files and as a model, and the batches it is trained on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.tiny_shapes_training import media_mix
from models.tiny_shapes_training.batches import TrainingBatches
from models.tiny_shapes_training.evaluate import answer, questions, without_deepstack
from models.tiny_shapes_training.examples import IGNORED, SEQUENCE_LENGTH, example
from models.tiny_shapes_training.prepare import prepare
from qwen3vl.processor import Processor
from qwen3vl.tokenizer import Tokenizer
from qwen3vl.torch_model import TorchModel
from tests.support.reference_model import ReferenceModel

FOLDER = Path(__file__).parents[2] / "models" / "tiny-shapes"
TOKENIZER = Tokenizer.from_checkpoint(FOLDER)


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.from_checkpoint(FOLDER)


@pytest.fixture(scope="module")
def model() -> TorchModel:
    return TorchModel.from_checkpoint(FOLDER)


def test_folder_is_at_most_12_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 12_000_000


@given(st.text())
def test_tokenizer_gives_any_text_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode_text(text)) == text


@pytest.mark.parametrize("character", "圆🔴")
def test_a_chinese_character_or_emoji_takes_several_tokens(character: str) -> None:
    assert len(TOKENIZER.encode_text(character)) == len(character.encode())


def test_model_agrees_with_transformers(processor: Processor, model: TorchModel) -> None:
    reference = ReferenceModel(FOLDER)
    for question in questions(processor, seed=1, count=3):
        inputs = question.inputs
        # Pictures and clips of one request are never mixed here.
        videos = tuple(range(len(inputs.grids))) if question.look == "clip" else ()
        with torch.inference_mode():
            rows = model.visual_rows(inputs.patches, inputs.grids)
            ours = model.decoder(torch.from_numpy(inputs.token_ids)[None].long(), rows,
                                 torch.from_numpy(inputs.position_ids)[:, None].long())[0]
        expected = reference.logits(inputs, videos)
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_answers_in_a_batch_are_those_given_alone(processor: Processor, model: TorchModel) -> None:
    for outcome in answer(model, processor, questions(processor, seed=2, count=6)):
        alone = model.generate(outcome.question.inputs, 160, processor.tokenizer.eos_token_ids)
        assert processor.tokenizer.decode(alone) == outcome.answer


def test_held_out_questions_are_answered_and_need_deepstack(processor: Processor, model: TorchModel) -> None:
    asked = questions(processor, seed=3, count=60)
    right, without = (sum(outcome.right for outcome in answer(model, processor, asked, change))
                      for change in (lambda rows: rows, without_deepstack(model.config.rows_per_token)))
    assert right >= 54  # 96.4 % of 2000 were right
    assert without <= 30  # the text-only questions need no rows


def test_sample_questions_get_the_recorded_answers(processor: Processor, model: TorchModel) -> None:
    folder = FOLDER / "samples"
    for sample in json.loads((folder / "samples.json").read_text()):
        files = [(folder / name).read_bytes() for name in sample["files"]]
        kind = "video" if sample["files"][0].endswith(".gif") else "image"
        content = [{"type": kind}] * len(files) + [{"type": "text", "text": sample["question"]}]
        inputs = processor(messages=[{"role": "user", "content": content}], **{f"{kind}s": files})
        tokens = model.generate(inputs, 80, processor.tokenizer.eos_token_ids)
        assert processor.tokenizer.decode(tokens) == sample["answer"], sample


def test_training_gives_the_same_checkpoint_in_every_process(tmp_path: Path) -> None:
    """Whatever the process's order of sets, which Python draws anew each time."""
    command = [sys.executable, "-m", "models.tiny_shapes_training.train", "--device", "cpu", "--steps", "2",
               "--batch", "2", "--uses", "2", "--workers", "0", "--report", "1", "--output"]
    for name, hash_seed in (("one", "1"), ("two", "2")):
        subprocess.run([*command, str(tmp_path / name)], env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True)
    for file in ("tokenizer.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_settings_and_tokenizer_come_out_again(tmp_path: Path) -> None:
    prepare(tmp_path, seed=0)
    for made in tmp_path.iterdir():
        assert made.read_bytes() == (FOLDER / made.name).read_bytes(), made.name


def test_training_batches_repeat_and_fit(processor: Processor) -> None:
    first, again, other = (TrainingBatches(processor, seed, 2, 12)[1] for seed in (0, 0, 1))
    for mine, same in zip(first.tensors(), again.tensors(), strict=True):
        assert torch.equal(mine, same)
    assert not torch.equal(first.token_ids, other.token_ids)
    assert [tensor.shape for tensor in first.tensors()] == [tensor.shape for tensor in other.tensors()]


@pytest.mark.parametrize("kind", media_mix.SHARES)
def test_labels_are_the_answers(processor: Processor, kind: str) -> None:
    rng = Random(kind)
    for _ in range(10):
        inputs, labels = example(rng, processor, media_mix.media(rng, kind))
        assert inputs.token_ids.size <= SEQUENCE_LENGTH
        labelled = np.flatnonzero(labels != IGNORED)
        assert (labels[labelled] == inputs.token_ids[labelled + 1]).all()
        assert processor.tokenizer.eos_token_ids[0] in labels[labelled]
        assert (labels[labelled] < processor.config.text.vocab_size).all()
