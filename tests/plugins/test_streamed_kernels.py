"""The decode kernels that stream weights compute what they should, and never hang: their source, on a CPU.

What a CPU has no instruction for is replaced: tensor cores, barriers, bulk copies (native/emulation).
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "plugins/decoder_kernels/csrc"
NATIVE = ROOT / "tests/plugins/native"
HEADERS = ("expert_plan.cuh", "expert_stream.cuh", "experts.cuh", "fragments.cuh", "int4_order.h", "int4_rows.cuh",
           "partition.h", "product.cuh", "product_outputs.cuh", "product_rows.cuh", "stage_rows.cuh", "stream_memory.cuh",
           "weight_stream.cuh", "wide_rows.cuh")
SHARED_MEMORY = (r"extern __shared__ __align__\(128\) std::uint8_t shared_memory\[\];",
                 "std::uint8_t* shared_memory = ::emulation::current->block->shared;")
KERNEL = (r"__global__ void __launch_bounds__\([^\n]*\n", "void\n")
PRODUCT = "::emulation::product_16x8x16<{}>(d, a0, a1, a2, a3, b0, b1);"
REPLACED = {
    "fragments.cuh": (
        (r'asm volatile\(\s*"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16[^;]*;",?.*?"r"\(b1\)\);',
         PRODUCT.format("__nv_bfloat16")),
        (r'asm volatile\(\s*"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16[^;]*;",?.*?"r"\(b1\)\);',
         PRODUCT.format("__half")),
        (r'asm volatile\("ld\.global\.nc.*?\);\n', "")),
    "weight_stream.cuh": (
        (r'asm volatile\("bar\.sync.*?\);\n', "::emulation::named_barrier(buffer_ + 1, kStreamThreads, true);\n"),
        (r'asm volatile\("bar\.arrive.*?\);\n', "::emulation::named_barrier(buffer_ + 1, kStreamThreads, false);\n")),
    "product.cuh": (SHARED_MEMORY, KERNEL),
    "experts.cuh": (SHARED_MEMORY, KERNEL),
}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="CUDA's headers are not installed")
def test_kernels_agree_with_sums_in_double_precision(tmp_path: Path) -> None:
    for header in HEADERS:
        source = (KERNELS / header).read_text()
        for pattern, replacement in REPLACED.get(header, ()):
            source, count = re.subn(pattern, lambda _, text=replacement: text, source, flags=re.DOTALL)
            assert count > 0, f"{header} has no {pattern} any more"
        (tmp_path / header).write_text(source)
    program = tmp_path / "streamed_kernels_test"
    # As C++, with CUDA's types.
    subprocess.run(["nvcc", "-x", "c++", "-std=c++17", "-O1", "-w", "-include", NATIVE / "emulation/device.h",
                    "-I", NATIVE / "emulation", "-I", tmp_path, NATIVE / "streamed_kernels_test.cpp",
                    "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
