"""The C++ plugin, where TENSORRT_ROOT gives headers to compile it with, and nvcc is installed.

The parser that loads it is TensorRT-RTX's: it and its registry are those of TensorRT 11, whose headers it takes.
"""

import os
import subprocess
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from plugins.deepstack_add.tensorrt_graph import require_plugin
from tests.plugins.models import one_node_model
from tests.plugins.parsing import parse

PROJECT = Path(__file__).parents[2] / "plugins/deepstack_add"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, library_folder: Path) -> Path:
    """The build folder of the plugin, linked with TensorRT-RTX, and of the program that checks it."""
    if "TENSORRT_ROOT" not in os.environ:
        pytest.skip("TENSORRT_ROOT is not set: no headers to compile the plugin with")
    folder = tmp_path_factory.mktemp("plugin")
    subprocess.run(["cmake", "-S", PROJECT, "-B", folder, "-DCMAKE_CUDA_ARCHITECTURES=80", "-DWITH_GPU_CHECKS=ON",
                    f"-DTENSORRT_LIBRARY={library_folder / 'libtensorrt_rtx.so'}"], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def native_plugin(build: Path) -> Path:
    return build / "libdeepstack_add_plugin.so"


def test_plugin_does_as_tensorrt_expects(build: Path) -> None:
    cases = "100" if torch.cuda.is_available() else "0"
    run = subprocess.run([build / "plugin_check", cases], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "creation, serialisation, types and shapes as expected" in run.stdout


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_preloaded_native_plugin_is_parsed_and_built_into_the_engine(tmp_path: Path, library_folder: Path,
                                                                     native_plugin: Path, dtype: ir.DataType) -> None:
    model = one_node_model(dtype, hidden_size=64)
    result = parse(model, tmp_path, library_folder, "--build", preload=native_plugin)
    assert result["layers"] == ["PLUGIN_V3"] and result["engine_bytes"] > 0


def test_native_plugin_writes_in_place_only_with_the_preview_feature(tmp_path: Path, library_folder: Path,
                                                                     native_plugin: Path) -> None:
    model = one_node_model(hidden_size=64)
    require_plugin(model, in_place=True)
    assert parse(model, tmp_path, library_folder, "--build", preload=native_plugin)["engine_bytes"] == 0
    assert parse(model, tmp_path, library_folder, "--build", "--aliasing", preload=native_plugin)["engine_bytes"] > 0
