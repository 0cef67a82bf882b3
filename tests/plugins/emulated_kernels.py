"""Kernels' sources with what a CPU has no instruction for replaced, to be run by native/emulation."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"
FOLDERS = (PLUGINS / "decoder_kernels/csrc", PLUGINS / "deepstack_add/csrc")
NATIVE = Path(__file__).parent / "native"

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="CUDA's headers are not installed")

SHARED_MEMORY = (r"extern __shared__ __align__\(128\) std::uint8_t shared_memory\[\];",
                 "std::uint8_t* shared_memory = ::emulation::current->block->shared;")
KERNEL = (r"__global__ void __launch_bounds__\((?:[^()]|\([^()]*\))*\)", "void")
PRODUCT = "::emulation::product_16x8x16<{}>(d, a0, a1, a2, a3, b0, b1);"
REPLACED = {
    "fragments.cuh": (
        (r'asm volatile\(\s*"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16[^;]*;",?.*?"r"\(b1\)\);',
         PRODUCT.format("__nv_bfloat16")),
        (r'asm volatile\(\s*"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16[^;]*;",?.*?"r"\(b1\)\);',
         PRODUCT.format("__half")),
        (r'asm volatile\("movmatrix.*?\);\n', "y = ::emulation::transposed_8x8(x);\n"),
        (r'asm volatile\("ld\.global\.nc.*?\);\n', "std::memcpy(&x, address, sizeof(x));\n")),
    "weight_stream.cuh": (
        (r'asm volatile\("bar\.sync.*?\);\n', "::emulation::named_barrier(buffer_ + 1, kStreamThreads, true);\n"),
        (r'asm volatile\("bar\.arrive.*?\);\n', "::emulation::named_barrier(buffer_ + 1, kStreamThreads, false);\n")),
    "product.cuh": (SHARED_MEMORY, KERNEL),
    "experts.cuh": (SHARED_MEMORY, KERNEL),
    "expert_gemv.cuh": (SHARED_MEMORY, KERNEL),
    "attention_step.cuh": (SHARED_MEMORY, KERNEL),
    "router_step.cuh": (SHARED_MEMORY, KERNEL),
    "top_logits.cuh": (SHARED_MEMORY, KERNEL),
    "add_norm.cuh": (KERNEL, (r"__shared__ float squares\[[^]]*\];",
                              "auto* squares = reinterpret_cast<float*>(::emulation::current->block->shared);")),
    "step_inputs.cuh": (KERNEL, (r"__shared__ std::int64_t number;", "auto& number = *reinterpret_cast<std::int64_t*>("
                                                                     "::emulation::current->block->shared);")),
    "deepstack_add.cuh": (KERNEL,),
}


def run_emulated(test: str, headers: Sequence[str], folder: Path) -> str:
    """Builds native/`test`.cpp with these of the kernels' headers, runs it, and returns what it says.

    Raises:
        AssertionError: the program failed, or a header has no place any more where something was to be replaced.
    """
    for header in headers:
        source = next(folder / header for folder in FOLDERS if (folder / header).exists()).read_text()
        for pattern, replacement in REPLACED.get(header, ()):
            source, count = re.subn(pattern, lambda _, text=replacement: text, source, flags=re.DOTALL)
            assert count > 0, f"{header} has no {pattern} any more"
        (folder / header).write_text(source)
    program = folder / test
    # As C++, with CUDA's types.
    subprocess.run(["nvcc", "-x", "c++", "-std=c++17", "-O1", "-w", "-include", NATIVE / "emulation/device.h",
                    "-I", NATIVE / "emulation", "-I", folder, NATIVE / f"{test}.cpp", "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
