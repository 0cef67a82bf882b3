"""Exact-match accuracy on pictures, clips and questions that training never saw.

    python -m models.tiny_shapes_training.evaluate models/tiny-shapes --output models/tiny-shapes/evaluation.json

Each question is asked alone, right after the pictures, and answered greedily. An answer counts if every character is
right.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from models.tiny_shapes_training import conversations, media_mix
from models.tiny_shapes_training.batches import collate
from models.tiny_shapes_training.generation import generate, visual_rows
from models.tiny_shapes_training.phrasing import Turn
from qwen3vl.processor import ModelInputs, Processor
from qwen3vl.torch_model import TorchModel

MAX_TOKENS = 160
BATCH = 200


@dataclass(frozen=True)
class Question:
    """A prompt, its right answer, and how its first picture or clip looks ("small wide", ...)."""

    turn: Turn
    inputs: ModelInputs
    look: str


@dataclass(frozen=True)
class Outcome:
    question: Question
    answer: str

    @property
    def right(self) -> bool:
        return self.answer == self.question.turn.answer


def questions(processor: Processor, seed: int, count: int) -> list[Question]:
    """The first `count` of an endless row of questions; the seeds differ from those of training."""
    return [question(processor, Random(f"held out {seed} {number}")) for number in range(count)]


def question(processor: Processor, rng: Random) -> Question:
    media = media_mix.media(rng, media_mix.random_kind(rng))
    turn = media.turn(rng)
    messages = conversations.messages(rng, media, [turn])[:-1]
    inputs = processor(messages=messages, images=media.pictures, videos=media.clips)
    return Question(turn, inputs, _look(inputs))


def answer(model: TorchModel, processor: Processor, asked: list[Question],
           change_rows: Callable[[Tensor], Tensor] = lambda rows: rows) -> list[Outcome]:
    """Ask all of them, in batches.

    Args:
        change_rows: applied to the visual rows [R, H] before the decoder sees them.
    """
    device = model.decoder.lm_head.weight.device
    end, outcomes = processor.tokenizer.eos_token_ids[0], []
    ordered = sorted(asked, key=lambda q: q.inputs.token_ids.size)
    for start in range(0, len(ordered), BATCH):
        part = ordered[start:start + BATCH]
        longest = part[-1].inputs.token_ids.size
        batch = collate([(q.inputs, q.inputs.token_ids[:0]) for q in part], processor, longest).to(device)
        answers = generate(model, batch, change_rows(visual_rows(model, batch)), MAX_TOKENS, end)
        outcomes += [Outcome(q, processor.tokenizer.decode(tokens)) for q, tokens in zip(part, answers, strict=True)]
    return outcomes


def without_deepstack(rows_per_token: int) -> Callable[[Tensor], Tensor]:
    """Zeroes rows 1..D of every visual token."""
    return lambda rows: _keep(rows, rows_per_token, [1] + [0] * (rows_per_token - 1))


def without_embedding(rows_per_token: int) -> Callable[[Tensor], Tensor]:
    """Zeroes row 0 of every visual token."""
    return lambda rows: _keep(rows, rows_per_token, [0] + [1] * (rows_per_token - 1))


def report(outcomes: list[Outcome]) -> dict:
    """Share of right answers over all, by type of question and by look of the picture."""
    return {"questions": len(outcomes), "accuracy": _share(outcomes),
            "by type": dict(_by(outcomes, lambda outcome: outcome.question.turn.topic)),
            "by picture": dict(_by(outcomes, lambda outcome: outcome.question.look))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    processor = Processor.from_checkpoint(args.checkpoint)
    model = TorchModel.from_checkpoint(args.checkpoint).to(args.device)
    asked = questions(processor, args.seed, args.questions)
    rows = model.config.rows_per_token
    results = {}
    for name, change in (("as trained", lambda rows: rows), ("DeepStack rows zeroed", without_deepstack(rows)),
                         ("embedding row zeroed", without_embedding(rows)), ("all rows zeroed", torch.zeros_like)):
        outcomes = answer(model, processor, asked, change)
        results[name] = report(outcomes)
        print(f"{name}: {json.dumps(results[name], ensure_ascii=False)}", flush=True)
        if name == "as trained":
            wrong = [outcome for outcome in outcomes if not outcome.right][:40]
            for outcome in wrong:
                turn = outcome.question.turn
                print(f"  {turn.topic}: {turn.question!r}: {outcome.answer!r}, expected {turn.answer!r}")
    args.output.write_text(json.dumps({"seed": args.seed, **results}, indent=2, ensure_ascii=False) + "\n")


def _keep(rows: Tensor, rows_per_token: int, kept: list[int]) -> Tensor:
    return rows * rows.new_tensor(kept).repeat(rows.shape[0] // rows_per_token)[:, None]


def _share(outcomes: list[Outcome]) -> float:
    return round(sum(outcome.right for outcome in outcomes) / len(outcomes), 4)


def _by(outcomes: list[Outcome], key: Callable[[Outcome], str]) -> Iterator[tuple[str, dict]]:
    for name in sorted(set(map(key, outcomes))):
        chosen = [outcome for outcome in outcomes if key(outcome) == name]
        yield name, {"questions": len(chosen), "accuracy": _share(chosen)}


def _look(inputs: ModelInputs) -> str:
    if not inputs.grids.size:
        return "no picture"
    if len(inputs.grids) > 1:
        return "several pictures"
    t, h, w = inputs.grids[0].tolist()
    if t > 1:
        return "clip"
    size = "small" if h * w < 144 else "medium" if h * w < 256 else "large"
    return f"{size}, {'wide' if w > 1.4 * h else 'tall' if h > 1.4 * w else 'about square'}"


if __name__ == "__main__":
    main()
