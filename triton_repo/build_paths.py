"""Where a model finds the rest of its build, relative to its own folder so that builds can be moved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits
from triton_repo.roles import Role

LIMITS_FILE = "limits.json"
ENCODE_SERVERS_FILE = "encode_servers.txt"


@dataclass(frozen=True)
class BuildPaths:
    """`build/<name>/`, as the models see it."""

    root: Path

    def repository(self, role: Role = Role.BOTH) -> Path:
        return self.root / role.folder

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def processor(self) -> Path:
        return self.root / "processor"

    @property
    def limits_file(self) -> Path:
        return self.root / LIMITS_FILE

    @property
    def encode_servers_file(self) -> Path:
        return self.root / ENCODE_SERVERS_FILE

    @classmethod
    def of_model(cls, model_folder: str) -> BuildPaths:
        """The build that `<root>/<repository>/<model>` is part of."""
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
