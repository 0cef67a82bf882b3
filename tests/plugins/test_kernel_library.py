"""The kernel library: that it compiles and loads where nvcc is, and what is said where it is something else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from plugins.deepstack_add.kernel_library import KernelLibrary
from qwen3vl.errors import ArtifactError

SOURCE = Path(__file__).parents[2] / "plugins/deepstack_add/csrc/deepstack_add.cu"
INVALID_VALUE = 1  # cudaErrorInvalidValue


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_refuses_what_is_not_the_library(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "libdeepstack_add_kernel.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not DeepstackAdd's kernel library"):
        KernelLibrary(path)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_compiles_and_refuses_bad_arguments_before_it_touches_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "libdeepstack_add_kernel.so"
    subprocess.run(["nvcc", "-std=c++17", "-O1", "-arch=sm_80", "-Werror", "all-warnings", "-shared", "-Xcompiler",
                    "-fPIC,-Wall,-Wextra", "-o", path, SOURCE], check=True, capture_output=True)
    library = KernelLibrary(path)
    sizes = {"hidden_size": 8, "row_count": 4, "level": 0, "vocab_size": 100, "dtype": "bfloat16", "stream": 0}
    library.launch(0, 0, 0, 0, tokens=0, **sizes)  # no tokens, nothing to do
    with pytest.raises(RuntimeError, match=f"-1 tokens of 8 bfloat16: CUDA error {INVALID_VALUE}"):
        library.launch(16, 16, 16, 16, tokens=-1, **sizes)
    with pytest.raises(RuntimeError, match=f"CUDA error {INVALID_VALUE}"):
        library.launch(0, 16, 16, 16, tokens=1, **sizes)
