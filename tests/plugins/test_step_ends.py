"""The kernels around the layers, and DeepstackAdd's: their source, on a CPU, beside the plainest computation."""

from pathlib import Path

from tests.plugins.emulated_kernels import needs_nvcc, run_emulated

HEADERS = ("add_norm.cuh", "deepstack_add.cuh", "float_order.cuh", "fragments.cuh", "row_index.h", "step_inputs.cuh",
           "top_logits.cuh")


@needs_nvcc
def test_kernels_around_the_layers_and_visual_rows(tmp_path: Path) -> None:
    run_emulated("step_ends_test", HEADERS, tmp_path)
