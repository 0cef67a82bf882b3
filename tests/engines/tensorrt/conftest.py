"""Exports in each precision and the engines that TensorRT for RTX builds from them, for real, without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.builder import build_engines
from engines.tensorrt.build import TensorRTOptions
from export.exporter import PRECISIONS, export

OPTIONS = TensorRTOptions("tensorrt_rtx", ("8.6", "12.0"))


@pytest.fixture(scope="session")
def exports(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Precision -> build folder."""
    folders = {precision: tmp_path_factory.mktemp(precision) for precision in PRECISIONS}
    for precision, folder in folders.items():
        export(random_checkpoint, folder, precision)
    return folders


@pytest.fixture(scope="session")
def rtx_builds(exports: dict[str, Path]) -> dict[str, Path]:
    """The same folders with the vision engine built. Tests must not change them."""
    for folder in exports.values():
        build_engines(folder, "tensorrt", ["vision_encoder"], OPTIONS)
    return exports
