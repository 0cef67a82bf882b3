"""Checking a build: visual rows, logits, greedy text and the DeepStack canary."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transformers
from polygraphy.comparator import Comparator, IterationResult, RunResults, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from engines.batching.batcher import Batcher
from engines.batching.request import GenerationRequest
from engines.fidelity.cases import Case, make_cases
from engines.fidelity.reference import Reference
from engines.onnxruntime.decoder import Decoder
from engines.vision_encoder import vision_encoder
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits
from qwen3vl.processor import Processor
from qwen3vl.sampling import SamplingParams

# Largest difference allowed, as a share of the reference's largest value.
TOLERANCE = {"fp32": 1e-4}
GREEDY_TOKENS = 64
CHUNK_TOKENS = 16


@dataclass(frozen=True)
class Result:
    """One comparison. `error` is the largest difference as a share of the reference's largest value."""

    case: str
    level: str
    passed: bool
    error: float


class Check:
    """Compares the engines of a build folder with its checkpoint.

    Args:
        build: the build folder.
        checkpoint: the checkpoint it was made from.
        precision: the build's; decides the tolerance.
    """

    def __init__(self, build: Path, checkpoint: Path, precision: str):
        limits = Limits(prompt_tokens=4096, total_tokens=4096 + 2 * GREEDY_TOKENS)
        self._tolerance = TOLERANCE[precision]
        processor = Processor.from_checkpoint(build / "processor", limits)
        self._cases = make_cases(processor)
        self._reference = Reference(checkpoint)
        self._vision = vision_encoder(build / "engines")
        self._capacity = max(len(case.inputs.token_ids) for case in self._cases)
        self._decoder = Decoder(build / "engines", slots=1, capacity=self._capacity)
        self._batcher = Batcher(build / "engines", limits, slots=2)
        self._rows_per_token = self._vision.config.rows_per_token
        self._eos = set(processor.tokenizer.eos_token_ids)

    def run(self) -> Iterator[Result]:
        """Every comparison, as it is made."""
        for case in self._cases:
            rows = self._vision.encode(case.inputs.patches, case.inputs.grids)
            yield from self._visual_rows(case, rows)
            yield from self._logits(case, rows)
            yield self._greedy(case, rows)
        self._batcher.close()

    def _visual_rows(self, case: Case, rows: np.ndarray) -> Iterator[Result]:
        expected, step = self._reference.visual_rows(case), self._rows_per_token
        for level in range(step if len(expected) else 0):
            name = f"visual rows, {f'DeepStack level {level}' if level else 'embedding'}"
            yield self._compare(case, name, rows[level::step], expected[level::step])

    def _logits(self, case: Case, rows: np.ndarray) -> Iterator[Result]:
        expected, length = self._reference.logits(case), len(case.inputs.token_ids)
        whole = self._prefill(case, rows, length)
        yield self._compare(case, "prefill logits", whole, expected)
        yield self._compare(case, f"prefill logits in chunks of {CHUNK_TOKENS}",
                            self._prefill(case, rows, CHUNK_TOKENS), expected)
        if len(rows) and self._rows_per_token > 1:
            zeroed = rows.copy().reshape(-1, self._rows_per_token, rows.shape[-1])
            zeroed[:, 1:] = 0
            error = _error(self._prefill(case, zeroed.reshape(rows.shape), length), expected)
            # The canary sings when it makes no difference whether DeepStack's rows are there.
            yield Result(case.name, "canary: logits differ without DeepStack", error > 10 * self._tolerance, error)

    def _prefill(self, case: Case, rows: np.ndarray, chunk: int) -> np.ndarray:
        inputs, length, logits = case.inputs, len(case.inputs.token_ids), []
        for start in range(0, length, chunk):
            end = min(start + chunk, length)
            logits.append(self._decoder.prefill(0, inputs.token_ids[start:end], inputs.position_ids[:, start:end], rows,
                                                start, np.arange(end - start, dtype=np.int32)))
        return np.concatenate(logits)

    def _greedy(self, case: Case, rows: np.ndarray) -> Result:
        inputs, done, ids = case.inputs, threading.Event(), []

        def collect(output) -> None:
            if isinstance(output, Exception) or output.finish_reason:
                done.set()
            ids.extend([] if isinstance(output, Exception) else output.token_ids.tolist())

        request = GenerationRequest(inputs.token_ids, inputs.position_ids, inputs.rope_delta, rows,
                                    SamplingParams(max_tokens=GREEDY_TOKENS))
        self._batcher.submit(request, collect)
        done.wait()
        expected = [token for token in self._reference.greedy(case, GREEDY_TOKENS) if token not in self._eos]
        same = sum(a == b for a, b in zip(ids, expected, strict=False))
        return Result(case.name, f"greedy text, {GREEDY_TOKENS} tokens", ids == expected,
                      1 - same / max(1, len(expected), len(ids)))

    def _compare(self, case: Case, level: str, actual: np.ndarray, expected: np.ndarray) -> Result:
        scale = float(np.abs(expected).max())
        results = RunResults()
        results.append(("engine", [IterationResult({level: np.ascontiguousarray(actual)})]))
        results.append(("reference", [IterationResult({level: np.ascontiguousarray(expected)})]))
        compare = SimpleCompareFunc(atol=self._tolerance * scale, rtol=0, check_error_stat="max")
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            passed = bool(Comparator.compare_accuracy(results, compare_func=compare))
        return Result(case.name, level, passed, _error(actual, expected))


def _error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))


def check(build: Path, checkpoint: Path, precision: str) -> dict:
    """Run every comparison, print each, and return the report that goes into the manifest.

    Raises:
        ArtifactError: no tolerance is known for that precision, or the checkpoint does not fit into the free memory.
    """
    if precision not in TOLERANCE:
        raise ArtifactError(f"builds of precision {precision} cannot be checked level by level, only "
                            f"{', '.join(TOLERANCE)}: export with --precision fp32 to check the conversion")
    results = []
    for result in Check(build, checkpoint, precision).run():
        results.append(result)
        print(f"{'ok  ' if result.passed else 'FAIL'} {result.case}: {result.level}, difference {result.error:.1e}",
              file=sys.stderr)
    return {"reference": f"transformers {transformers.__version__}, float32, CPU",
            "tolerance": TOLERANCE[precision], "passed": all(result.passed for result in results),
            "results": [vars(result) for result in results]}
