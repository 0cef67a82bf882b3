"""The model repositories of a build, one for each role of a server, generated from its configuration and engines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from engines.capacity import Capacity
from engines.description import EngineDescription
from export.build_folder import BuildFolder, replacing, sha256
from qwen3vl.limits import Limits
from triton_repo.build_paths import BuildPaths
from triton_repo.config_pbtxt import CONFIG_FILE, Ensemble, PythonModel, to_text, triton_config
from triton_repo.device_rows import can_be_on_gpu
from triton_repo.engine_tensors import check_engines
from triton_repo.repository import MODEL_VERSION, Options, models
from triton_repo.roles import Role
from triton_repo.split.pairing import rows_parameters

SHELLS = Path(__file__).parent / "shells"
# An ensemble's version folder has nothing in it, and empty folders get lost when repositories are copied.
KEEP_FILE = "README"


def compose(folder: Path, options: Options | None = None, limits: Mapping[str, int] | None = None,
            role: Role = Role.BOTH) -> None:
    """Write a role's model repository and, unless it is there, `folder/limits.json`; skip what has not changed.

    Args:
        folder: a build folder with the engines of the role.
        options: how the deployment is run.
        limits: limits to change; the others stay as they are.
        role: what the server is to do.

    Raises:
        ArtifactError: engines are missing or do not fit their description, or a limit is not valid.
    """
    paths, build, options = BuildPaths(folder), BuildFolder(folder), options or Options()
    config = EngineDescription.load(paths.engines).config
    check_engines(paths.engines, role.engines)
    with build.locked():
        written = _write_limits(paths, Capacity.of(paths.engines), options.slots, limits or {})
        described = models(role, config, options, written, rows_parameters(role, build, paths, config),
                           on_gpu=can_be_on_gpu(paths.engines, role))
        configs = {model.name: to_text(triton_config(model)) for model in described}
        shells = {model.name: sha256(_shell(model)) for model in described if isinstance(model, PythonModel)}
        made = build.artifact(role.folder, {"configs": configs, "shells": shells},
                              lambda target: _write_repository(target, described, configs))
        build.manifest.setdefault("deployments", {})[role.value] = asdict(options)
        build.save()
    if not made:
        print(f"{paths.repository(role)} is up to date", file=sys.stderr)


def _write_limits(paths: BuildPaths, capacity: Capacity, slots: int, changes: Mapping[str, int]) -> Limits:
    limits = paths.limits() if paths.limits_file.exists() else capacity.default_limits()
    limits = Limits.from_dict({**limits.to_dict(), **changes})
    capacity.require(limits, slots)
    with replacing(paths.limits_file) as temporary:
        temporary.write_text(json.dumps(limits.to_dict(), indent=2) + "\n")
    return limits


def _write_repository(target: Path, described: list[PythonModel | Ensemble], configs: Mapping[str, str]) -> None:
    for model in described:
        version = target / model.name / MODEL_VERSION
        version.mkdir(parents=True)
        (target / model.name / CONFIG_FILE).write_text(configs[model.name])
        if isinstance(model, PythonModel):
            shutil.copyfile(_shell(model), version / "model.py")
        else:
            (version / KEEP_FILE).write_text("An ensemble has no files of its own: see config.pbtxt above.\n")


def _shell(model: PythonModel) -> Path:
    return SHELLS / f"{model.shell or model.name}.py"
