"""What an encode and a language server must agree on before any row moves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from export.build_folder import BuildFolder
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from qwen3vl.visual_files import VisualSettings
from triton_repo.build_paths import BuildPaths
from triton_repo.handoff.job import RowsDescription, visual_tokens
from triton_repo.roles import Role

# Goes up when the same settings prepare a file differently.
PREPARATION = 1
# What this project's vision engines give and decoders take.
DTYPE = "FP32"
ENGINE_ARTIFACT = "engines/vision_encoder"


@dataclass(frozen=True)
class Pairing:
    """Two servers fit together if theirs are equal: the rows then mean the same on both sides.

    Attributes:
        checkpoint: fingerprint of the weights.
        preparation: hash of how images and videos become patches.
        hidden: width of a row.
        levels: DeepStack levels.
        merge: side of the square of patches that one visual token stands for.
    """

    checkpoint: str
    preparation: str
    hidden: int
    levels: int
    merge: int

    @classmethod
    def of_build(cls, build: BuildFolder, processor: Path, config: ModelConfig) -> Pairing:
        """Errors: `ArtifactError` if the manifest does not say what the build was made from, `CheckpointError` if
        there are no preprocessor settings."""
        fingerprint = build.manifest.get("source", {}).get("fingerprint")
        if fingerprint is None:
            raise ArtifactError(f"{build.path} has no manifest that names its checkpoint, by which encode and language "
                                f"servers recognise each other: run `qwen3vl export CHECKPOINT -o {build.path}`")
        return cls(fingerprint, preparation_hash(VisualSettings.from_checkpoint(processor)), config.text.hidden_size,
                   config.rows_per_token - 1, config.vision.spatial_merge_size)

    @property
    def rows_per_token(self) -> int:
        return 1 + self.levels

    def rows(self, grid: tuple[int, int, int]) -> int:
        """Visual rows of an image or video of (t, h, w) patches."""
        return self.rows_per_token * visual_tokens(grid, self.merge)

    def description(self, engine: str) -> RowsDescription:
        """The rows of this pairing from one engine, named by its hash."""
        return RowsDescription(self.hidden, self.levels, self.merge, DTYPE, engine)

    def difference(self, other: Pairing) -> str | None:
        """What keeps another server from fitting, in words; None if it does fit."""
        differing = [f"{field.name} is {getattr(other, field.name)}, here {getattr(self, field.name)}"
                     for field in fields(self) if getattr(other, field.name) != getattr(self, field.name)]
        return "; ".join(differing) or None

    def to_parameters(self) -> dict[str, str]:
        """For a model's `config.pbtxt`."""
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Pairing:
        """Read what `to_parameters` wrote.

        Raises:
            ArtifactError: a parameter is missing or no number.
        """
        try:
            return cls(parameters["checkpoint"], parameters["preparation"],
                       *(int(parameters[name]) for name in ("hidden", "levels", "merge")))
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"the parameters {dict(parameters)} do not describe a server's rows: {error!r}; run "
                                "`qwen3vl compose` again") from None


def preparation_hash(settings: VisualSettings) -> str:
    values = {"version": PREPARATION, **settings.to_dict()}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def engine_hash(build: BuildFolder) -> str:
    """Stands for the vision engine of a build.

    Raises:
        ArtifactError: the manifest has none.
    """
    entry = build.manifest["artifacts"].get(ENGINE_ARTIFACT)
    if entry is None:
        raise ArtifactError(f"{build.path} has no manifest entry for its vision engine: run "
                            f"`qwen3vl build {build.path} --engine vision_encoder`")
    return entry["sha256"]


def rows_parameters(role: Role, build: BuildFolder, paths: BuildPaths, config: ModelConfig) -> dict[str, str]:
    """What a server of this role is recognised by, for its `config.pbtxt`; nothing for one that needs no other.

    Raises:
        ArtifactError: the manifest does not tell.
    """
    if role is Role.BOTH:
        return {}
    parameters = Pairing.of_build(build, paths.processor, config).to_parameters()
    return {**parameters, "engine": engine_hash(build)} if role is Role.ENCODE else parameters
