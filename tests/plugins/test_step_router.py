"""The router of few tokens, its source on a CPU: clusters of blocks, their messages, the choice of experts."""

from pathlib import Path

from tests.plugins.emulated_kernels import needs_nvcc, run_emulated

HEADERS = ("float_order.cuh", "fragments.cuh", "router.cuh", "router_step.cuh")


@needs_nvcc
def test_chosen_experts_and_weights_agree_with_double_precision(tmp_path: Path) -> None:
    assert run_emulated("step_router_test", HEADERS, tmp_path).count("tokens") == 6
