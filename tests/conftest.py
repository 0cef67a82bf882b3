"""Builds that several test modules share: made once a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from engines.builder import build_engines
from export.exporter import export
from tests.support.checkpoints import make_checkpoint
from tests.support.emulated_gpu import cuda_build, emulated_driver, emulated_gpu  # noqa: F401  (fixtures)
from tests.support.processor_folder import add_processor_files
from tests.support.server import live_build, live_server  # noqa: F401  (fixtures)

# CI tries the same examples each time, so that a commit either passes or does not; other runs look for new ones.
# No example has a deadline: how long one takes says something about the machine only.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the default tiny shape, processor files included."""
    return add_processor_files(make_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="session")
def random_build(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder of `random_checkpoint`, engines included. Tests must not change it."""
    folder = tmp_path_factory.mktemp("build")
    export(random_checkpoint, folder)
    build_engines(folder)
    return folder
