"""What the reference says of a case, kept for engines that are checked later, or where the reference cannot run.

TensorRT-LLM 1.2.1 needs a version of `transformers` that does not know this model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.fidelity.cases import Case
from engines.fidelity.comparison import distance
from export.build_folder import replacing
from export.precision import quantisation_of, wide_precision

if TYPE_CHECKING:
    from engines.fidelity.reference import Reference

LOGITS = "logits"
# Engines with quantised weights round activations to 8 bits too, which the reference does not: their logits are so far
# from it. (Up to 0.1 was seen where a token took another expert for it.)
ACTIVATION_NOISE = 0.05


@dataclass(frozen=True)
class Expected:
    """Attributes:
        reference: what said it.
        rows: float32 [(1 + D) * N, hidden], visual rows.
        logits: float32 [S, V], of the prompt.
        greedy_ids: int32 [T], the greedy continuation, an end token included.
        greedy_logits: float32 [T, V], from which each of them was chosen.
        noise: distance of the reference in the engine's precision from float32, for each level of the rows ("0", "1",
            ...) and for `LOGITS`; empty for float32.
        exact_logits: float32 [S, V], of the prompt, where the weights are quantised: all the rest is then said by the
            reference with weights rounded as the engine's are. Otherwise [0, V].
    """

    reference: str
    rows: np.ndarray
    logits: np.ndarray
    greedy_ids: np.ndarray
    greedy_logits: np.ndarray
    noise: dict[str, float]
    exact_logits: np.ndarray

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        with replacing(path) as temporary:
            np.savez(temporary, **{**vars(self), "noise": json.dumps(self.noise)})

    @classmethod
    def load(cls, path: Path) -> Expected:
        with np.load(path) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        return cls(**{**values, "reference": values["reference"].item(), "noise": json.loads(values["noise"].item())})


def kept_expectations(folder: Path, checkpoint: Path, cases: Sequence[Case], precision: str,
                      greedy_tokens: int) -> list[Expected]:
    """As `expectations`, but from files of `folder` where they are all there; else they are written."""
    files = [folder / f"{precision}-{case.name.replace(' ', '_')}.npz" for case in cases]
    if not all(file.is_file() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        for file, expected in zip(files, expectations(checkpoint, cases, precision, greedy_tokens), strict=True):
            expected.save(file)
    return [Expected.load(file) for file in files]


def expectations(checkpoint: Path, cases: Sequence[Case], precision: str, greedy_tokens: int) -> list[Expected]:
    """Run the reference in float32 and, to know what rounding does, in the engine's precision.

    Raises:
        ArtifactError: the checkpoint does not fit into the free memory.
    """
    from engines.fidelity.reference import Reference

    reference, quantisation, wide = Reference(checkpoint), quantisation_of(precision), wide_precision(precision)
    if quantisation is not None:
        exact = [reference.logits(case) for case in cases]
        reference.round_weights(quantisation)
        found = [replace(_say(reference, case, greedy_tokens), noise={LOGITS: ACTIVATION_NOISE}, exact_logits=logits)
                 for case, logits in zip(cases, exact, strict=True)]
    else:
        found = [_say(reference, case, greedy_tokens) for case in cases]
    if wide == "fp32":
        return found
    if quantisation is not None:
        reference.narrow(wide)
        rounded = reference
    else:
        del reference
        rounded = Reference(checkpoint, wide)
    for case, expected in zip(cases, found, strict=True):
        print(f"reference, {precision}: {case.name}", file=sys.stderr)
        rows, step = rounded.visual_rows(case), rounded.config.rows_per_token
        for level in range(step if len(rows) else 0):
            expected.noise[str(level)] = distance(wide, rows[level::step], expected.rows[level::step])
        expected.noise[LOGITS] = distance(wide, rounded.logits(case), expected.logits)
    return found


def _say(reference: Reference, case: Case, greedy_tokens: int) -> Expected:
    print(f"reference, {reference.description}: {case.name}", file=sys.stderr)
    logits = reference.logits(case)
    return Expected(reference.description, reference.visual_rows(case), logits, *reference.greedy(case, greedy_tokens),
                    noise={}, exact_logits=logits[:0])
