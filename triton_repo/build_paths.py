"""Where a model finds the rest of its build, relative to its own folder so that builds can be moved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwen3vl.limits import LIMITS_FILE, Limits
from triton_repo.roles import Role

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
        """Read `limits.json`; see `Limits.load`."""
        return Limits.load(self.limits_file)
