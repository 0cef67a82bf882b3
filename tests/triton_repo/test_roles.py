"""Repositories of each role: composed from what the role needs alone, checked for what it needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from client.cli import main
from qwen3vl.errors import ArtifactError
from tests.support.server import LIMITS
from triton_repo.compose import compose
from triton_repo.config_pbtxt import CONFIG_FILE, read_config
from triton_repo.repo_check import MODELS, check_repository
from triton_repo.repository import Options
from triton_repo.roles import Role
from triton_repo.serve_command import log_file
from triton_repo.split.server_list import read_servers


@pytest.fixture
def build(live_build: Path, tmp_path: Path) -> Path:
    """A copy of a build without model repositories."""
    ignored = shutil.ignore_patterns("onnx", "triton_repo*")
    return Path(shutil.copytree(live_build, tmp_path / "build", ignore=ignored))


def problems(build: Path, role: Role) -> list[str]:
    return [str(problem) for problem in check_repository(build / role.folder)]


def parameters(build: Path, role: Role, model: str) -> dict[str, str]:
    config = read_config(build / role.folder / model / CONFIG_FILE)
    return {name: value.string_value for name, value in config.parameters.items()}


@pytest.mark.parametrize("role", Role)
def test_each_role_has_its_models_and_is_sound(build: Path, role: Role) -> None:
    compose(build, Options(threads=1), LIMITS, role)
    assert sorted(folder.name for folder in (build / role.folder).iterdir()) == sorted(MODELS[role])
    assert problems(build, role) == []
    assert [folder.name for folder in build.glob("triton_repo*")] == [role.folder]


@pytest.mark.parametrize("role,unneeded", [(Role.ENCODE, "decoder"), (Role.LANGUAGE, "vision_encoder")])
def test_engine_of_the_other_role_is_not_needed(build: Path, role: Role, unneeded: str) -> None:
    shutil.rmtree(build / "engines" / unneeded)
    compose(build, role=role)
    assert problems(build, role) == []
    with pytest.raises(ArtifactError, match=f"engines/{unneeded}/engine"):
        compose(build)


@pytest.mark.parametrize("role,needed", [(Role.ENCODE, "vision_encoder"), (Role.LANGUAGE, "decoder")])
def test_engine_of_the_role_is_needed(build: Path, role: Role, needed: str) -> None:
    compose(build, role=role)
    shutil.rmtree(build / "engines" / needed)
    found, = problems(build, role)
    assert f"engines/{needed}/engine.onnx: the engine is missing" in found
    with pytest.raises(ArtifactError, match=f"engines/{needed}/engine"):
        compose(build, role=role)


def test_roles_do_not_touch_each_other(build: Path) -> None:
    for role in Role:
        compose(build, role=role)
    before = {path: path.stat().st_mtime_ns for path in build.glob("triton_repo*/**/*") if path.is_file()}
    compose(build, Options(slots=3), role=Role.LANGUAGE)
    changed = {path.relative_to(build).parts[0] for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"triton_repo-language"}
    deployments = json.loads((build / "manifest.json").read_text())["deployments"]
    assert {role: options["slots"] for role, options in deployments.items()} == {"both": 8, "encode": 8, "language": 3}


def test_options_of_a_language_server_reach_its_model(build: Path) -> None:
    compose(build, Options(row_cache_mib=7, encode_seconds=3, transport="shared_memory"), role=Role.LANGUAGE)
    found = parameters(build, Role.LANGUAGE, "vision_encoder")
    assert (found["row_cache_mib"], found["encode_seconds"], found["transport"]) == ("7", "3", "shared_memory")


@pytest.mark.parametrize("options,message", [
    ({"row_cache_mib": -1}, "row_cache_mib is -1, expected at least 0"),
    ({"encode_seconds": 0}, "encode_seconds is 0, expected at least 1"),
    ({"transport": "pigeon"}, "transport is 'pigeon', expected one of auto, grpc"),
])
def test_wrong_option_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Options(**options)


def test_rebuilt_engine_must_be_composed_again(build: Path) -> None:
    compose(build, role=Role.ENCODE)
    manifest = json.loads((build / "manifest.json").read_text())
    manifest["artifacts"]["engines/vision_encoder"]["sha256"] = "another"
    (build / "manifest.json").write_text(json.dumps(manifest))
    found, = problems(build, Role.ENCODE)
    assert "encode: parameters['engine']" in found
    assert "but the build's is 'another'" in found
    compose(build, role=Role.ENCODE)
    assert problems(build, Role.ENCODE) == []


def test_changed_preparation_must_be_composed_again(build: Path) -> None:
    for role in (Role.ENCODE, Role.LANGUAGE):
        compose(build, role=role)
    path = build / "processor/preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "size": {**settings["size"], "shortest_edge": 1024}}))
    for role, model in ((Role.ENCODE, "encode"), (Role.LANGUAGE, "vision_encoder")):
        found, = problems(build, role)
        assert f"{model}: parameters['preparation']" in found


def test_build_without_a_manifest_is_a_problem(build: Path) -> None:
    compose(build, role=Role.LANGUAGE)
    (build / "manifest.json").unlink()
    found, = problems(build, Role.LANGUAGE)
    assert "no manifest that names its checkpoint" in found


def test_several_encode_models_at_once_are_refused(build: Path) -> None:
    compose(build, role=Role.ENCODE)
    path = build / "triton_repo-encode/encode/config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    found, = problems(build, Role.ENCODE)
    assert "encode: instance_group.count: is 2, expected 1" in found


def test_command_line(build: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compose", str(build), "--role", "encode", "--threads", "1"]) == 0
    assert main(["compose", str(build), "--role", "language", "--row-cache-mib", "64", "--encode-seconds", "5"]) == 0
    assert main(["repo", "check", str(build)]) == 0
    output = capsys.readouterr().out
    assert "triton_repo-encode: no problems" in output
    assert "triton_repo-language: no problems" in output
    shutil.rmtree(build / "triton_repo-encode/encode")
    assert main(["repo", "check", str(build)]) == 1
    assert "encode: " in capsys.readouterr().err
    assert main(["repo", "check", str(build / "triton_repo-language")]) == 0
    assert main(["serve", str(build), "--role", "both"]) == 1
    assert "there is no such folder: run `qwen3vl compose` first" in capsys.readouterr().err
    assert main(["serve", str(build), "--role", "encode"]) == 1
    assert f"run `qwen3vl compose {build} --role encode`" in capsys.readouterr().err


def test_encode_servers_of_the_command_line_are_listed(build: Path, capsys: pytest.CaptureFixture) -> None:
    # There is no repository, so nothing is served.
    assert main(["serve", str(build), "--role", "language", "--encode-server", "a:1", "--encode-server", "b:2"]) == 1
    assert read_servers(build / "encode_servers.txt") == ("a:1", "b:2")
    assert main(["serve", str(build), "--role", "language"]) == 1
    assert read_servers(build / "encode_servers.txt") == ("a:1", "b:2")
    capsys.readouterr()
    assert main(["serve", str(build), "--role", "language", "--encode-server", "nowhere"]) == 1
    assert "'nowhere' is no host:port" in capsys.readouterr().err
    assert main(["serve", str(build), "--encode-server", "a:1"]) == 1
    assert "is for --role language" in capsys.readouterr().err


def test_logs_of_the_roles_are_apart() -> None:
    assert len({log_file(role) for role in Role}) == 3
