"""Reading the JSON files of a checkpoint or processor folder."""

from __future__ import annotations

import json
from pathlib import Path

from qwen3vl.errors import CheckpointError


def read_json(path: Path) -> dict:
    """The object that a JSON file holds.

    Raises:
        CheckpointError: the file is missing, unreadable or not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: pass the folder of a whole Hugging Face checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a JSON {type(values).__name__}, expected an object")
    return values
