"""What must be as this project knows it before TensorRT-LLM is used: its version, TensorRT's, the plugin library."""

from __future__ import annotations

import ctypes
import importlib
import re
from pathlib import Path
from types import ModuleType

from engines.tensorrt.flavour import load_tensorrt
from plugins.deepstack_add.operator import NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION
from qwen3vl.errors import ArtifactError

VERSION = "1.2.1"
CONTAINER = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
# The first release without the engine backend (its removal is in the release notes of 1.3.0rc21).
FIRST_WITHOUT_ENGINES = (1, 3, 0, 21)
BUILD_PLUGIN = ("cmake -S plugins/deepstack_add -B build/plugin -DTENSORRT_ROOT=<folder of TensorRT> && "
                "cmake --build build/plugin")


def load_tensorrt_llm() -> ModuleType:
    """TensorRT-LLM's Python package, of the one version that the model class is written for.

    Raises:
        ArtifactError: it is not installed or of another version, or TensorRT is not of a version that fits.
    """
    try:
        module = importlib.import_module("tensorrt_llm")
    except ImportError as error:
        raise ArtifactError(f"TensorRT-LLM {VERSION} cannot be imported ({error}): run this in the container "
                            f"{CONTAINER}, which has it (docs/tensorrt-llm.md)") from error
    version = getattr(module, "__version__", "unknown")
    if version.partition("+")[0] != VERSION:
        raise ArtifactError(f"TensorRT-LLM is version {version}, expected {VERSION}{_why_not(version)}: use the "
                            f"container {CONTAINER}")
    load_tensorrt("tensorrt")
    return module


def load_plugin(library: Path) -> None:
    """Load the DeepstackAdd plugin into this process; TensorRT then finds it by its name.

    Raises:
        ArtifactError: there is no such file, it cannot be loaded, or TensorRT does not know the plugin afterwards.
    """
    if not library.is_file():
        raise ArtifactError(f"there is no plugin library {library}: build it ({BUILD_PLUGIN}), name it with --plugin, "
                            "or build the engine from TensorRT's own operations with --no-plugin")
    try:
        ctypes.CDLL(str(library.resolve()), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ArtifactError(f"the plugin library {library} cannot be loaded ({error}): build it in this container, "
                            f"against its TensorRT and CUDA ({BUILD_PLUGIN})") from error
    registry = load_tensorrt("tensorrt").get_plugin_registry()
    if registry.get_creator(NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE) is None:
        raise ArtifactError(f"TensorRT has no plugin {PLUGIN_NAMESPACE}::{NAME} version {PLUGIN_VERSION} after "
                            f"{library} was loaded: it is another library, or linked to another TensorRT; build anew "
                            f"({BUILD_PLUGIN})")


def _why_not(version: str) -> str:
    """What is known to be wrong with a version; empty where nothing is."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)(?:rc(\d+))?", version)
    if numbers is None:
        return ""
    release = tuple(map(int, numbers.groups(default="999999")))
    if release >= FIRST_WITHOUT_ENGINES:
        return " (TensorRT-LLM has no engines any more from 1.3.0rc21 on)"
    return ", the only version that the model class was written for"
