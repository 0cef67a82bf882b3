"""TensorRT-RTX as a library, for the tests that parse with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with TensorRT-RTX under both its names: the parser opens libtensorrt_rtx.so to add a plugin layer, and
    the Python package brings libtensorrt_rtx.so.1 only."""
    folder = tmp_path_factory.mktemp("tensorrt_rtx")
    if importlib.util.find_spec("tensorrt_rtx_libs") is None:
        pytest.skip("TensorRT-RTX is not installed")
    package = importlib.util.find_spec("tensorrt_rtx_libs").submodule_search_locations[0]
    library, = Path(package).glob("libtensorrt_rtx.so.*")
    for name in (library.name, "libtensorrt_rtx.so"):
        (folder / name).symlink_to(library)
    return folder
