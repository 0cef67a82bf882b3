"""The decoder's kernel library: how its work is divided, that it compiles, and what it refuses without a GPU."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugins.decoder_kernels.kernel_library import DecoderKernels, type_number
from qwen3vl.errors import ArtifactError
from tests.plugins.cmake_projects import PLUGINS, needs_cmake, refusal, require_cpu_tests_pass

PROJECT = PLUGINS / "decoder_kernels"
INVALID_VALUE = 1  # cudaErrorInvalidValue


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_refuses_what_is_not_the_library(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "libdecoder_kernels.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not the library of the decoder's kernels"):
        DecoderKernels(path)


@needs_cmake
@pytest.mark.parametrize("root", ["", "/nowhere"])
def test_missing_onnxruntime_is_explained(tmp_path: Path, root: str) -> None:
    message = refusal(PROJECT, tmp_path, f"-DONNXRUNTIME_ROOT={root}")
    for part in (f"ONNXRUNTIME_ROOT is '{root}'", "include/onnxruntime_c_api.h", "-DONNXRUNTIME_ROOT=",
                 "-DWITH_ONNXRUNTIME=OFF"):
        assert part in message


@needs_cmake
def test_operators_without_cublas_are_refused(tmp_path: Path) -> None:
    headers = tmp_path / "onnxruntime/include"
    headers.mkdir(parents=True)
    (headers / "onnxruntime_c_api.h").touch()
    message = refusal(PROJECT, tmp_path / "build", f"-DONNXRUNTIME_ROOT={headers.parent}", "-DWITH_CUBLAS=OFF")
    assert "The operator library needs cuBLAS" in message and "-DWITH_ONNXRUNTIME=OFF" in message


@needs_cmake
def test_tests_of_how_work_is_divided_pass_without_cuda(tmp_path: Path) -> None:
    require_cpu_tests_pass(PROJECT, tmp_path)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_compiles_and_refuses_sizes_before_it_touches_a_gpu(tmp_path: Path) -> None:
    deepstack_add = PLUGINS / "deepstack_add/csrc"
    sources = [*sorted((PROJECT / "csrc").glob("*.cu")), deepstack_add / "deepstack_add.cu"]
    quickly = ["-O0", "-Xcicc", "-O0", "-Xptxas", "-O0"]

    def compiled(source: Path) -> Path:
        target = tmp_path / f"{source.stem}.o"
        subprocess.run(["nvcc", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", *quickly, "-Werror",
                        "all-warnings", "-I", PLUGINS / "hopper", "-I", deepstack_add, "-Xcompiler",
                        "-fPIC,-Wall,-Wextra", "-c", source, "-o", target], check=True, capture_output=True)
        return target

    path = tmp_path / "libdecoder_kernels.so"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run(["nvcc", "-shared", "-o", path, *objects], check=True, capture_output=True)
    kernels = DecoderKernels(path)
    bfloat16 = type_number("bfloat16")
    with pytest.raises(RuntimeError, match=f"qwen3vl_add_norm.*CUDA error {INVALID_VALUE}"):
        kernels.call("add_norm", *[16] * 5, 1, 8, 2047, 1e-6, bfloat16, 0)
    with pytest.raises(RuntimeError, match=f"qwen3vl_product.*CUDA error {INVALID_VALUE}"):
        kernels.call("product", 16, 16, 0, 16, 1, 2044, 2048, bfloat16, 0, 0)
    for rows, block in ((2056, 128), (2048, 16)):
        with pytest.raises(RuntimeError, match=f"qwen3vl_int4_product.*CUDA error {INVALID_VALUE}"):
            kernels.call("int4_product", 16, 16, 0, 16, 16, 1, rows, 2048, block, bfloat16, 0)
    for rows, block in ((2056, 128), (2048, 16)):
        with pytest.raises(RuntimeError, match=f"qwen3vl_int8_logits.*CUDA error {INVALID_VALUE}"):
            kernels.call("int8_logits", 16, 16, 16, 16, 1, rows, 2048, block, bfloat16, 0)
    with pytest.raises(RuntimeError, match=f"qwen3vl_int4_experts.*CUDA error {INVALID_VALUE}"):
        kernels.call("int4_experts", *[16] * 10, 1, 8, 128, 2048, 768, 48, bfloat16, 0)
    with pytest.raises(RuntimeError, match=f"qwen3vl_decode_attention.*CUDA error {INVALID_VALUE}"):
        kernels.call("decode_attention", *[16] * 9, 1, 32, 8, 128, 64, 1e-6, 0.1, bfloat16, 0, 0)
    with pytest.raises(RuntimeError, match=f"qwen3vl_prefill_attention.*CUDA error {INVALID_VALUE}"):
        kernels.call("prefill_attention", *[16] * 9, 65, 32, 4, 128, 64, 1e-6, 0.1, bfloat16, 0)
    with pytest.raises(ArtifactError, match=r"prefill_product.*without cuBLAS"):
        kernels.call("prefill_product", 16, 16, 0, 16, 64, 2048, 2048, bfloat16, 0, 16, 16, 0)
    with pytest.raises(RuntimeError, match=f"qwen3vl_experts_prefill.*CUDA error {INVALID_VALUE}"):
        kernels.call("experts_prefill", *[16] * 7, 1024, 8, 129, 2048, 768, bfloat16, 0)
    pairs = 1024 * 8
    assert kernels.workspace("experts_prefill", 1024, 8) >= pairs * 768 * 2 + pairs * 4
    with pytest.raises(RuntimeError, match=f"qwen3vl_step_inputs.*CUDA error {INVALID_VALUE}"):
        kernels.call("step_inputs", *[16] * 9, 1, 1, 100, 2044, 64, bfloat16, 0)
    for vocabulary, k in ((151934, 64), (262148, 64), (151936, 65), (60, 64)):
        with pytest.raises(RuntimeError, match=f"qwen3vl_top_logits.*CUDA error {INVALID_VALUE}"):
            kernels.call("top_logits", *[16] * 6, 1, vocabulary, k, 0)
    assert kernels.workspace("top_logits", 3, 151936, 64) == 3 * 64 * 38 * 8
