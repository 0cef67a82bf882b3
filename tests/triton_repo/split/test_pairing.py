"""What makes two servers fit, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.description import EngineDescription
from export.build_folder import BuildFolder
from qwen3vl.errors import ArtifactError
from qwen3vl.images import ImageSettings
from qwen3vl.visual_files import VisualSettings
from triton_repo.build_paths import BuildPaths
from triton_repo.handoff.job import RowsDescription
from triton_repo.roles import Role
from triton_repo.split.pairing import Pairing, preparation_hash, rows_parameters

PAIRING = Pairing("checkpoint", "preparation", 64, 3, 2)


def test_parameters_are_read_as_they_were_written() -> None:
    assert Pairing.from_parameters({**PAIRING.to_parameters(), "engine": "x", "threads": "1"}) == PAIRING


@pytest.mark.parametrize("change", [{"hidden": "many"}, {"levels": None}])
def test_parameters_that_tell_nothing(change: dict) -> None:
    parameters = {name: value for name, value in {**PAIRING.to_parameters(), **change}.items() if value is not None}
    with pytest.raises(ArtifactError, match="do not describe a server's rows"):
        Pairing.from_parameters(parameters)


def test_difference_names_field_and_both_values() -> None:
    assert PAIRING.difference(replace(PAIRING)) is None
    other = replace(PAIRING, hidden=32, checkpoint="other")
    assert PAIRING.difference(other) == "checkpoint is other, here checkpoint; hidden is 32, here 64"


def test_rows_of_a_grid() -> None:
    assert PAIRING.rows((3, 4, 6)) == 4 * 3 * 2 * 3
    description = PAIRING.description("engine")
    assert description == RowsDescription(64, 3, 2, "FP32", "engine")
    assert description.tokens((3, 4, 6)) * description.rows_per_token == PAIRING.rows((3, 4, 6))


def parameters(build: Path, role: Role) -> dict[str, str]:
    paths = BuildPaths(build)
    return rows_parameters(role, BuildFolder(build), paths, EngineDescription.load(paths.engines).config)


def test_roles_of_one_build_fit(live_build: Path) -> None:
    encode, language = parameters(live_build, Role.ENCODE), parameters(live_build, Role.LANGUAGE)
    assert Pairing.from_parameters(encode) == Pairing.from_parameters(language)
    assert len(encode["engine"]) == 64
    assert "engine" not in language
    assert parameters(live_build, Role.BOTH) == {}


def test_builds_of_different_checkpoints_do_not_fit(live_build: Path, random_build: Path) -> None:
    first, second = (Pairing.from_parameters(parameters(build, Role.LANGUAGE)) for build in (live_build, random_build))
    assert "checkpoint is" in first.difference(second)


def test_build_without_a_manifest_is_told_what_to_do(live_build: Path, tmp_path: Path) -> None:
    paths = BuildPaths(live_build)
    with pytest.raises(ArtifactError, match="no manifest that names its checkpoint"):
        rows_parameters(Role.ENCODE, BuildFolder(tmp_path), paths, EngineDescription.load(paths.engines).config)


def test_every_setting_of_the_preparation_counts(live_build: Path) -> None:
    settings = VisualSettings.from_checkpoint(live_build / "processor")
    changed = [replace(settings, images=replace(settings.images, **{name: value})) for name, value in
               (("min_pixels", 1), ("max_pixels", 7), ("patch_size", 3), ("image_mean", (0.1, 0.2, 0.3)))]
    changed.append(replace(settings, videos=replace(settings.videos, fps=1.5)))
    assert isinstance(settings.images, ImageSettings)
    hashes = {preparation_hash(each) for each in [settings, *changed]}
    assert len(hashes) == 1 + len(changed)
    assert preparation_hash(VisualSettings.from_checkpoint(live_build / "processor")) in hashes
