"""TensorRT and TensorRT for RTX: one Python interface under two module names."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from qwen3vl.errors import ArtifactError

# Module name, which is the flavour's name too -> the extra that installs it, its first supported version and the first
# that is not any more.
FLAVOURS = {"tensorrt": ("tensorrt", (10, 13), (11,)), "tensorrt_rtx": ("rtx", (1, 7), (2,))}
RTX = "tensorrt_rtx"


def load_tensorrt(flavour: str) -> ModuleType:
    """The flavour's Python module.

    Raises:
        ArtifactError: it is not installed, or of a version that is not supported.
    """
    extra, first, beyond = FLAVOURS[flavour]
    try:
        module = importlib.import_module(flavour)
    except ImportError as error:
        raise ArtifactError(f"the Python module {flavour} cannot be imported ({error}): "
                            f"pip install 'qwen3vl-triton[{extra}]'") from error
    version = module.__version__
    if not first <= tuple(map(int, version.split(".")[:2])) < beyond:
        raise ArtifactError(f"{flavour} is version {version}, expected {'.'.join(map(str, first))} or newer, below "
                            f"{beyond[0]}")
    return module


def use_polygraphy(flavour: str) -> None:
    """Make Polygraphy's TensorRT loaders use this flavour; call it before importing them.

    Raises:
        ArtifactError: this process has imported them for the other flavour.
    """
    from polygraphy import config

    wanted = flavour == RTX
    if "polygraphy.backend.trt" in sys.modules and wanted != config.USE_TENSORRT_RTX:
        raise ArtifactError(f"this process has used another flavour of TensorRT: build for {flavour} in a new one")
    config.USE_TENSORRT_RTX = wanted
