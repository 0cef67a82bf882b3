"""Reading the JSON files that say what the engine beside them is."""

from __future__ import annotations

import json
from pathlib import Path

from qwen3vl.errors import ArtifactError


def read_record(path: Path, format_number: int, made_by: str) -> dict:
    """The values of a file, without its `format`.

    Args:
        format_number: the format that is understood.
        made_by: what to run where there is no such file.

    Raises:
        ArtifactError: there is none, or another version of this toolkit wrote it.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist: run {made_by}") from None
    if values.pop("format", None) != format_number:
        raise ArtifactError(f"{path} was written by another version of this toolkit: run `qwen3vl build` again")
    return values
