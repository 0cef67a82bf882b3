"""Checking a build: visual rows, logits, greedy text and the DeepStack canary."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engines.batching.request import GenerationRequest
from engines.fidelity.cases import Case, make_cases
from engines.fidelity.comparison import Result, Tolerance
from engines.fidelity.decoders import checked_decoder
from engines.fidelity.expected import LOGITS, Expected, expectations, kept_expectations
from engines.fidelity.next_token import next_token_results
from engines.vision_encoder import vision_encoder
from export.precision import QUANTISED, wide_precision
from qwen3vl.limits import Limits
from qwen3vl.processor import Processor
from qwen3vl.sampling import SamplingParams

GREEDY_TOKENS = 64
LIMITS = Limits(prompt_tokens=4096, total_tokens=4096 + 2 * GREEDY_TOKENS)


class Check:
    """Compares the engines of a build folder with what the reference says of its checkpoint.

    Args:
        build: the build folder.
        cases: the requests.
        expected: the reference's results for each of them.
        precision: the build's.

    Attributes:
        logits: the engine's for each prompt so far, by the case's name.
    """

    def __init__(self, build: Path, cases: Sequence[Case], expected: Sequence[Expected], precision: str):
        self._cases, self._precision = list(zip(cases, expected, strict=True)), precision
        self.logits: dict[str, np.ndarray] = {}
        self._vision = vision_encoder(build / "engines")
        self._decoder = checked_decoder(build, LIMITS)
        self._rows_per_token = self._vision.config.rows_per_token
        self._eos = set(Processor.from_checkpoint(build / "processor").tokenizer.eos_token_ids)

    def run(self) -> Iterator[Result]:
        """Every comparison, as it is made."""
        try:
            for case, expected in self._cases:
                request = self._request(case)
                yield from self._visual_rows(case, expected, request.visual_rows)
                logits = self.logits[case.name] = self._decoder.prefill(request)
                yield self._tolerance(expected, LOGITS).compare(case.name, "prefill logits", logits, expected.logits)
                yield from next_token_results(case.name, logits, expected.logits, expected.exact_logits)
                yield from self._canary(case, expected, request, logits)
                yield self._greedy(case, expected, request)
            level = f"prefill logits in chunks of {self._decoder.chunk_tokens}"
            for case, expected in self._cases:  # together: engines may have to be started again for chunks
                chunked = self._decoder.prefill(self._request(case), chunked=True)
                yield self._tolerance(expected, LOGITS).compare(case.name, level, chunked, expected.logits)
        finally:
            self._decoder.close()

    def _request(self, case: Case) -> GenerationRequest:
        rows = self._vision.encode(case.inputs.patches, case.inputs.grids)
        return GenerationRequest(case.inputs.token_ids, case.inputs.position_ids, case.inputs.rope_delta, rows,
                                 SamplingParams(max_tokens=GREEDY_TOKENS))

    def _tolerance(self, expected: Expected, level: str) -> Tolerance:
        on_cpu = level == LOGITS and self._precision in QUANTISED  # where activations are rounded to 8 bits
        precision = self._precision if on_cpu else wide_precision(self._precision)
        return Tolerance(precision, expected.noise.get(level, 0.0))

    def _visual_rows(self, case: Case, expected: Expected, rows: np.ndarray) -> Iterator[Result]:
        step = self._rows_per_token
        for level in range(step if len(expected.rows) else 0):
            name = f"visual rows, {f'DeepStack level {level}' if level else 'embedding'}"
            yield self._tolerance(expected, str(level)).compare(case.name, name, rows[level::step],
                                                                expected.rows[level::step])

    def _canary(self, case: Case, expected: Expected, request: GenerationRequest,
                logits: np.ndarray) -> Iterator[Result]:
        """Fails when it makes no difference to the engine whether DeepStack's rows are there."""
        if not len(request.visual_rows) or self._rows_per_token == 1:
            return
        zeroed = request.visual_rows.copy().reshape(-1, self._rows_per_token, request.visual_rows.shape[-1])
        zeroed[:, 1:] = 0
        without = GenerationRequest(request.token_ids, request.position_ids, request.rope_delta,
                                    zeroed.reshape(request.visual_rows.shape), request.sampling)
        yield self._tolerance(expected, LOGITS).canary(case.name, "canary: logits differ without DeepStack",
                                                       self._decoder.prefill(without), logits)

    def _greedy(self, case: Case, expected: Expected, request: GenerationRequest) -> Result:
        ids = [token for token in expected.greedy_ids.tolist() if token not in self._eos]
        return self._tolerance(expected, LOGITS).greedy(case.name, f"greedy text, {GREEDY_TOKENS} tokens",
                                                        self._decoder.greedy(request), ids, expected.greedy_logits)


def check(build: Path, checkpoint: Path, precision: str, expected_folder: Path | None = None,
          logits_file: Path | None = None) -> dict:
    """Run every comparison, print each, and return the report that goes into the manifest.

    Args:
        expected_folder: where to keep what the reference says, and to take it from if it is there: then neither torch
            nor transformers is needed.
        logits_file: where to write the engine's logits of each prompt, as an npz file.

    Raises:
        ArtifactError: the checkpoint does not fit into the free memory, or the engine cannot be checked.
    """
    cases, expected = reference_results(build, checkpoint, precision, expected_folder)
    results, checked = [], Check(build, cases, expected, precision)
    for result in checked.run():
        results.append(result)
        print(f"{'ok  ' if result.passed else 'FAIL'} {result.case}: {result.level}, difference {result.error:.1e}",
              file=sys.stderr)
    if logits_file is not None:
        np.savez(logits_file, **checked.logits)
    return {"reference": expected[0].reference, "precision": precision,
            "passed": all(result.passed for result in results), "results": [vars(result) for result in results]}


def reference_results(build: Path, checkpoint: Path, precision: str,
                      folder: Path | None = None) -> tuple[list[Case], list[Expected]]:
    """The cases for a build's processor, and what the reference says of them; as for `check`. Needs no engines."""
    cases = make_cases(Processor.from_checkpoint(build / "processor", LIMITS))
    arguments = (checkpoint, cases, precision, GREEDY_TOKENS)
    return cases, kept_expectations(folder, *arguments) if folder else expectations(*arguments)
