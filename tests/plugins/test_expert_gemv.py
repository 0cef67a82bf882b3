"""One token's experts with weights of 4 bits: the kernel's source on a CPU, all its thread blocks at once.

Blocks of 128, 64 and 32, in both types; what one thread block hands to the others comes through emulated memory. It
cannot show a missing fence.
"""

from pathlib import Path

from tests.plugins.emulated_kernels import needs_nvcc, run_emulated

HEADERS = ("coded_rows.cuh", "expert_gemv.cuh", "expert_gemv_columns.cuh", "expert_gemv_exchange.cuh",
           "expert_gemv_ring.cuh", "expert_plan.cuh", "expert_stream.cuh", "fragments.cuh", "int4_order.h",
           "int4_rows.cuh", "int8_rows.cuh", "partition.h", "stage_rows.cuh", "stream_memory.cuh",
           "weight_stream.cuh", "wide_rows.cuh")


@needs_nvcc
def test_one_token_agrees_with_sums_in_double_precision(tmp_path: Path) -> None:
    assert run_emulated("expert_gemv_test", HEADERS, tmp_path).count("blocks of") == 6
