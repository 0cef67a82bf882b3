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


def read_preprocessor(folder: Path, file: str, section: str) -> tuple[dict, str]:
    """Settings of a preprocessor: those of its own file, or else a section of `processor_config.json`, where
    `transformers` 5 puts them.

    Returns:
        The settings, and where they are from, for error messages.

    Raises:
        CheckpointError: there are none, or they are no JSON object.
    """
    path, joint = folder / file, folder / "processor_config.json"
    if path.exists() or not joint.exists():
        return read_json(path), str(path)
    values = read_json(joint).get(section)
    if not isinstance(values, dict):
        raise CheckpointError(f"{joint}: {section} is {values!r}, expected an object; {file} would do as well")
    return values, f"{joint}: {section}"
