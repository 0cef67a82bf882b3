"""The kernels around the layers, and DeepstackAdd's: their source, on a CPU, beside the plainest computation."""

from pathlib import Path

from tests.plugins.emulated_kernels import needs_nvcc, run_emulated

HEADERS = ("add_norm.cuh", "deepstack_add.cuh", "fragments.cuh", "row_index.h", "step_inputs.cuh")


@needs_nvcc
def test_kernels_around_the_layers_and_visual_rows(tmp_path: Path) -> None:
    run_emulated("step_ends_test", HEADERS, tmp_path)


@needs_nvcc
def test_most_likely_tokens_and_the_choice_among_them(tmp_path: Path) -> None:
    run_emulated("top_logits_test", ("choose_token.cuh", "float_order.cuh", "top_logits.cuh"), tmp_path)
