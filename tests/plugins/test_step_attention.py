"""Attention of one new token a sequence, its source on a CPU: clusters of blocks, their messages, bulk copies."""

from pathlib import Path

from tests.plugins.emulated_kernels import needs_nvcc, run_emulated

HEADERS = ("attention_cache.cuh", "attention_results.cuh", "attention_softmax.cuh", "attention_step.cuh",
           "fragments.cuh", "head_rotation.cuh")


@needs_nvcc
def test_attention_and_the_cache_agree_with_double_precision(tmp_path: Path) -> None:
    assert run_emulated("step_attention_test", HEADERS, tmp_path).count("blocks a sequence") == 5
