"""The decode kernels that stream weights compute what they should, and never hang: their source, on a CPU.

What a CPU has no instruction for is replaced: tensor cores, barriers, bulk copies (native/emulation).
"""

from pathlib import Path

from tests.plugins.emulated_kernels import needs_nvcc, run_emulated

HEADERS = ("coded_rows.cuh", "expert_plan.cuh", "expert_shape.cuh", "expert_stream.cuh", "experts.cuh",
           "fragments.cuh", "int4_order.h", "int4_rows.cuh", "int8_rows.cuh", "partition.h", "product.cuh",
           "product_outputs.cuh", "product_rows.cuh", "stage_rows.cuh", "stream_memory.cuh", "weight_stream.cuh",
           "wide_rows.cuh")


@needs_nvcc
def test_kernels_agree_with_sums_in_double_precision(tmp_path: Path) -> None:
    run_emulated("streamed_kernels_test", HEADERS, tmp_path)
