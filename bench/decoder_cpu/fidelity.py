"""What quantised weights cost in quality: answers of the bundled model, and layers of the real width.

    python -m bench.decoder_cpu.fidelity -o bench/results/decoder_cpu_fidelity.json

The bundled model answers held-out questions through the batcher; logits are compared with those of the float32 build
at each token of held-out answers. The layers' weights are random, normal and with heavy tails (Student's t, 5 degrees
of freedom); their outputs are compared with those of the same weights in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from bench.decoder_cpu.layer_fidelity import layer_errors
from bench.environment import describe_machine
from engines.batching.batcher import Batcher
from engines.batching.request import GenerationRequest
from engines.builder import build_engines
from engines.fidelity.next_token import changed_choices, divergence
from engines.onnxruntime.decoder import Decoder
from engines.onnxruntime.vision_encoder import VisionEncoder
from export.exporter import export
from export.precision import QUANTISED
from models.tiny_shapes_training import media_mix
from models.tiny_shapes_training.evaluate import MAX_TOKENS, Question, questions
from models.tiny_shapes_training.examples import IGNORED, example
from qwen3vl.limits import Limits
from qwen3vl.processor import ModelInputs, Processor
from qwen3vl.sampling import SamplingParams

MODEL = Path(__file__).parent.parent.parent / "models/tiny-shapes"
SLOTS = 16


class BundledModel:
    """One build of the bundled model."""

    def __init__(self, folder: Path, precision: str):
        export(MODEL, folder, precision)
        build_engines(folder)
        self._engines, self._vision = folder / "engines", VisionEncoder(folder / "engines")
        self.processor = Processor.from_checkpoint(folder / "processor")

    def accuracy(self, asked: list[Question]) -> float:
        """Share of questions that are answered exactly right, greedily, many at the same time."""
        batcher = Batcher(self._engines, Limits(queue=len(asked)), SLOTS)
        try:
            answers = [self._ask(batcher, question.inputs) for question in asked]
            for _, done in answers:
                done.wait()
        finally:
            batcher.close()
        texts = [self.processor.tokenizer.decode([token for output in outputs for token in output.token_ids.tolist()])
                 for outputs, _ in answers]
        return sum(text == question.turn.answer for text, question in zip(texts, asked, strict=True)) / len(asked)

    def _ask(self, batcher: Batcher, inputs: ModelInputs) -> tuple[list, threading.Event]:
        outputs, done = [], threading.Event()

        def collect(output) -> None:
            outputs.append(output)
            if isinstance(output, Exception) or output.finish_reason:
                done.set()

        rows = self._vision.encode(inputs.patches, inputs.grids)
        batcher.submit(GenerationRequest(inputs.token_ids, inputs.position_ids, inputs.rope_delta, rows,
                                         SamplingParams(max_tokens=MAX_TOKENS, stream=False)), collect)
        return outputs, done

    def answer_logits(self, conversations: list[tuple[ModelInputs, np.ndarray]]) -> np.ndarray:
        """Logits [T, V] at all positions from which a token of an answer follows."""
        decoder = Decoder(self._engines, 1, max(inputs.token_ids.size for inputs, _ in conversations))
        logits = []
        for inputs, labels in conversations:
            rows, wanted = self._vision.encode(inputs.patches, inputs.grids), np.flatnonzero(labels != IGNORED)
            logits.append(decoder.prefill(0, inputs.token_ids, inputs.position_ids, rows, 0, wanted.astype(np.int32)))
        return np.concatenate(logits)


def held_out(processor: Processor, count: int) -> Iterator[tuple[ModelInputs, np.ndarray]]:
    """Conversations that training never saw, and their labels."""
    for number in range(count):
        random = Random(f"held out conversation {number}")
        yield example(random, processor, media_mix.media(random, media_mix.random_kind(random)))


def bundled_model(count: int, scratch: Path) -> dict:
    """Accuracy of each precision, and how far its logits are from float32's."""
    results: dict = {}
    exact = None
    for precision in ("fp32", *QUANTISED):
        model = BundledModel(scratch / precision, precision)
        accuracy = model.accuracy(questions(model.processor, 0, count))
        logits = model.answer_logits(list(held_out(model.processor, count // 4)))
        exact = logits if exact is None else exact
        results[precision] = {"accuracy": accuracy, "divergence_nats": divergence(logits, exact),
                              "other_choices": changed_choices(logits, exact)}
        print(f"bundled model, {precision}: {json.dumps(results[precision])}", file=sys.stderr, flush=True)
    return {"questions": count, "answer_tokens": len(exact), **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/decoder_cpu_fidelity.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = {"command": "python -m " + " ".join(["bench.decoder_cpu.fidelity", *sys.argv[1:]]),
                  **describe_machine(), "bundled model": bundled_model(args.questions, Path(scratch)),
                  "layers of 30B-A3B's width": layer_errors()}
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
