"""What tests of several batchers need of the random model: prepared requests, and the vision encoder for their rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.onnxruntime.vision_encoder import VisionEncoder
from qwen3vl.processor import ModelInputs
from tests.engines.support import make_inputs


@pytest.fixture(scope="module")
def vision(random_build: Path) -> VisionEncoder:
    return VisionEncoder(random_build / "engines")


@pytest.fixture(scope="module")
def inputs(random_build: Path) -> dict[str, ModelInputs]:
    return make_inputs(random_build)
