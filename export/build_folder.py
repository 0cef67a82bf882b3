"""A build folder and its manifest: what was made from what, so that work is never repeated and never left half done."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qwen3vl.errors import ArtifactError

MANIFEST = "manifest.json"
FORMAT = 1
TEMPORARY = ".tmp-"


class BuildFolder:
    """`build/<name>/`: artifacts, each a file or a folder, and `manifest.json`.

    An artifact is written under a temporary name, renamed into place, then entered into the manifest with the key it
    was made from. A process killed in between leaves the previous artifact or none, and its temporary file is removed
    by the next one.
    """

    def __init__(self, path: Path):
        self.path = path
        self.manifest = self._read_manifest()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for writing; the lock goes with the process, however it ends.

        Raises:
            ArtifactError: another process is building here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(f"{self.path} is being built by another process: wait for it or choose another "
                                    "folder") from None
            for leftover in self.path.rglob(f"{TEMPORARY}*"):
                _remove(leftover)
            self.manifest = self._read_manifest()
            yield

    def artifact(self, relative: str, key: dict, produce: Callable[[Path], None]) -> bool:
        """Make `relative` unless it is there already, made from an equal key and unchanged since.

        Args:
            relative: its path in the build folder.
            key: everything that its content depends on, as JSON values.
            produce: writes the artifact, a file or a folder, at the path it is given.

        Returns:
            Whether it was made now.
        """
        if self.is_current(relative, key):
            return False
        target = self.path / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{TEMPORARY}{target.name}"
        _remove(temporary)
        started = time.monotonic()
        produce(temporary)
        # A folder cannot be replaced in one step, nor removed: aside first, so that never half of one is there.
        aside = target.parent / f"{TEMPORARY}old-{target.name}"
        if target.is_dir():
            os.replace(target, aside)
        os.replace(temporary, target)
        _remove(aside)
        self.manifest["artifacts"][relative] = {
            "key": _digest(key), "made_from": key, "state": _state(target), "sha256": sha256(target),
            "seconds": round(time.monotonic() - started, 3)}
        self.save()
        return True

    def discard(self, relative: str) -> None:
        """Remove an artifact that no longer belongs to the build, if it is there."""
        if self.manifest["artifacts"].pop(relative, None) is not None:
            self.save()
        _remove(self.path / relative)

    def is_current(self, relative: str, key: dict) -> bool:
        """Whether the artifact is there, made from an equal key and unchanged since."""
        entry = self.manifest["artifacts"].get(relative)
        return bool(entry) and entry["key"] == _digest(key) and _state(self.path / relative) == entry["state"]

    def identity_of(self, relative: str) -> str:
        """A hash of an artifact's content and of what it was made from, for the keys of what is made from it.

        The content alone does not do: a graph's file stays the same when only the weights beside it change.

        Raises:
            ArtifactError: the artifact has not been made.
        """
        entry = self.manifest["artifacts"].get(relative)
        if entry is None or not (self.path / relative).exists():
            raise ArtifactError(f"{self.path / relative} has not been made: run "
                                f"`qwen3vl export CHECKPOINT -o {self.path}`")
        return _digest({"content": entry["sha256"], "key": entry["key"]})

    def save(self) -> None:
        """Write the manifest, whole or not at all."""
        with replacing(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(self.manifest, indent=2) + "\n")

    def _read_manifest(self) -> dict:
        path = self.path / MANIFEST
        if not path.exists():
            return {"format": FORMAT, "artifacts": {}}
        try:
            manifest = json.loads(path.read_text())
        except ValueError as error:
            raise ArtifactError(f"{path} is not valid JSON ({error}): delete it to build anew") from None
        if manifest.get("format") != FORMAT:
            raise ArtifactError(f"{path} has format {manifest.get('format')!r}, expected {FORMAT}: "
                                "build into a new folder")
        return manifest


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to, which then takes its place: `path` is there whole or as it was."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    yield temporary
    os.replace(temporary, path)


def sha256(path: Path) -> str:
    """Hash of a file, or of a folder's relative names and contents in sorted order."""
    digest = hashlib.sha256()
    for file in _files(path):
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode() + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _state(path: Path) -> list | None:
    """Size and modification time of each file: cheap to compare, changes whenever somebody touches an artifact."""
    if not path.exists():
        return None
    return [[str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in _files(path)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # Python's caches come and go when a model repository is served.
    return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def _digest(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
