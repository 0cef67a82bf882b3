"""Artifacts are made once, made anew when what they depend on changes, and never left half done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.build_folder import BuildFolder, sha256
from qwen3vl.errors import ArtifactError


def write(text: str):
    return lambda target: target.write_text(text)


@pytest.fixture
def build(tmp_path: Path) -> BuildFolder:
    build = BuildFolder(tmp_path / "build")
    with build.locked():
        assert build.artifact("a/one.txt", {"v": 1}, write("one"))
    return build


def test_unchanged_work_is_not_repeated(build: BuildFolder):
    again = BuildFolder(build.path)
    with again.locked():
        assert not again.artifact("a/one.txt", {"v": 1}, write("never"))
    assert (build.path / "a/one.txt").read_text() == "one"
    assert again.manifest["artifacts"]["a/one.txt"]["sha256"] == sha256(build.path / "a/one.txt")


@pytest.mark.parametrize("spoil", [
    lambda path: path.write_text("touched"), lambda path: path.unlink(), lambda path: os.utime(path, (1, 1))])
def test_an_artifact_that_somebody_changed_is_made_anew(build: BuildFolder, spoil):
    spoil(build.path / "a/one.txt")
    with build.locked():
        assert build.artifact("a/one.txt", {"v": 1}, write("one"))
    assert (build.path / "a/one.txt").read_text() == "one"


def test_another_key_makes_it_anew(build: BuildFolder):
    with build.locked():
        assert build.artifact("a/one.txt", {"v": 2}, write("two"))
        assert not build.artifact("a/one.txt", {"v": 2}, write("three"))
    assert (build.path / "a/one.txt").read_text() == "two"


def test_a_failure_keeps_the_previous_artifact(build: BuildFolder):
    def fail(target: Path) -> None:
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), build.locked():
        build.artifact("a/one.txt", {"v": 2}, fail)
    assert (build.path / "a/one.txt").read_text() == "one"
    with build.locked():
        assert [path.name for path in (build.path / "a").iterdir()] == ["one.txt"]
        assert not build.artifact("a/one.txt", {"v": 1}, write("never"))


def test_folders_are_replaced_whole(build: BuildFolder):
    def folder(names: str):
        def produce(target: Path) -> None:
            target.mkdir()
            for name in names:
                (target / name).write_text(name)
        return produce

    with build.locked():
        assert build.artifact("f", {"names": "abc"}, folder("abc"))
        assert build.artifact("f", {"names": "cd"}, folder("cd"))
        assert sorted(path.name for path in (build.path / "f").iterdir()) == ["c", "d"]
        assert not build.artifact("f", {"names": "cd"}, folder("x"))


def test_two_builders_exclude_each_other(build: BuildFolder):
    script = f"from export.build_folder import BuildFolder\nfrom pathlib import Path\n" \
             f"with BuildFolder(Path({str(build.path)!r})).locked(): pass"
    with build.locked():
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert other.returncode != 0 and "being built by another process" in other.stderr
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize(("content", "message"), [("{", "not valid JSON"), (json.dumps({"format": 99}), "format 99")])
def test_a_manifest_that_cannot_be_used_says_so(build: BuildFolder, content: str, message: str):
    (build.path / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        BuildFolder(build.path)


def test_the_identity_changes_with_the_content_and_with_what_it_was_made_from(build: BuildFolder):
    identities = set()
    with build.locked():
        for key, text in (({"v": 1}, "one"), ({"v": 2}, "one"), ({"v": 3}, "three")):
            build.artifact("a/one.txt", key, write(text))
            identities.add(build.identity_of("a/one.txt"))
    assert len(identities) == 3


def test_what_was_never_made_says_what_to_run(build: BuildFolder):
    with pytest.raises(ArtifactError, match="qwen3vl export"):
        build.identity_of("onnx/decoder.onnx")
