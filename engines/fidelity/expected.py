"""What the reference says of a case, kept for engines that are checked later, or where the reference cannot run.

TensorRT-LLM 1.2.1 needs a version of `transformers` that does not know this model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.fidelity.cases import Case
from engines.fidelity.comparison import distance
from engines.fidelity.next_token import changed_choices, divergence
from export.precision import QUANTISED

LOGITS, DIVERGENCE, CHOICES = "logits", "divergence", "choices"
# What an engine with quantised weights may add to them at least, as it rounds activations to 8 bits: the distance of
# logits, the divergence in nats.
ACTIVATION_NOISE, ACTIVATION_DIVERGENCE = 1e-2, 1e-4


@dataclass(frozen=True)
class Expected:
    """Attributes:
        reference: what said it.
        rows: float32 [(1 + D) * N, hidden], visual rows.
        logits: float32 [S, V], of the prompt.
        greedy_ids: int32 [T], the greedy continuation, an end token included.
        greedy_logits: float32 [T, V], from which each of them was chosen.
        noise: distance of the reference in the engine's precision from float32, for each level of the rows ("0", "1",
            ...) and for `LOGITS`; empty for float32. For quantised weights also the `divergence` (`DIVERGENCE`) and the
            `changed_choices` (`CHOICES`) of the reference with rounded weights.
    """

    reference: str
    rows: np.ndarray
    logits: np.ndarray
    greedy_ids: np.ndarray
    greedy_logits: np.ndarray
    noise: dict[str, float]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        temporary = path.with_name(f".tmp-{path.name}")
        np.savez(temporary, **{**vars(self), "noise": json.dumps(self.noise)})
        temporary.replace(path)

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
    from engines.fidelity.reference import Reference, description

    reference, found = Reference(checkpoint), []
    step = reference.config.rows_per_token
    for case in cases:
        print(f"reference, float32: {case.name}", file=sys.stderr)
        found.append(Expected(description(), reference.visual_rows(case), reference.logits(case),
                              *reference.greedy(case, greedy_tokens), noise={}))
    del reference
    if precision == "fp32":
        return found
    rounded = Reference(checkpoint, precision)
    for case, expected in zip(cases, found, strict=True):
        print(f"reference, {precision}: {case.name}", file=sys.stderr)
        rows = rounded.visual_rows(case)
        for level in range(step if len(rows) else 0):
            expected.noise[str(level)] = distance(precision, rows[level::step], expected.rows[level::step])
        logits = rounded.logits(case)
        expected.noise[LOGITS] = distance(precision, logits, expected.logits)
        if precision in QUANTISED:
            expected.noise.update({
                LOGITS: max(expected.noise[LOGITS], ACTIVATION_NOISE),
                DIVERGENCE: max(divergence(logits, expected.logits), ACTIVATION_DIVERGENCE),
                CHOICES: changed_choices(logits, expected.logits)})
    return found
