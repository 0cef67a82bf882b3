"""Where a model finds the rest of its build, relative to its own folder so that builds can be moved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits

LIMITS_FILE = "limits.json"
REPOSITORY = "triton_repo"


@dataclass(frozen=True)
class BuildPaths:
    """`build/<name>/`, as the models see it."""

    root: Path

    @property
    def repository(self) -> Path:
        return self.root / REPOSITORY

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def processor(self) -> Path:
        return self.root / "processor"

    @property
    def limits_file(self) -> Path:
        return self.root / LIMITS_FILE

    @classmethod
    def of_model(cls, model_folder: str) -> BuildPaths:
        """The build that `<root>/triton_repo/<model>` is part of."""
        return cls(Path(model_folder).parent.parent)

    def limits(self) -> Limits:
        """Read `limits.json`.

        Raises:
            ArtifactError: it is missing, not JSON, or names or values are wrong.
        """
        try:
            values = json.loads(self.limits_file.read_text())
        except FileNotFoundError:
            raise ArtifactError(f"{self.limits_file} does not exist: run `qwen3vl compose {self.root}`") from None
        except ValueError as error:
            raise ArtifactError(f"{self.limits_file} is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise ArtifactError(f"{self.limits_file} holds a {type(values).__name__}, expected an object of limits")
        try:
            return Limits.from_dict(values)
        except ArtifactError as error:
            raise ArtifactError(f"{self.limits_file}: {error}") from None
