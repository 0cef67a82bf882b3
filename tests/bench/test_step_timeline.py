"""Steps are told apart by idle times, and what each kernel adds to one adds up."""

import pytest

from bench.decoder_cuda.step_timeline import Interval, shares, short_name, span, steps_of

PRODUCT = "void qwen3vl::(anonymous namespace)::product_kernel<qwen3vl::WideRows<__nv_bfloat16>, float, 2048, 1>(Args)"


def interval(begin: float, end: float, name: str = "a") -> Interval:
    """In microseconds."""
    return Interval(name, round(1000 * begin), round(1000 * end))


def test_names():
    assert short_name(PRODUCT) == "product_kernel"
    assert short_name("nvjet_sm90_tst_64x32_64x16_1x2_h_bx_TNT") == "nvjet_sm90_tst_64x32_64x16_1x2_h_bx_TNT"
    assert short_name("void onnxruntime::cuda::_GatherKernel<short>(long, long)") == "_GatherKernel"
    assert short_name("qwen3vl::top_of_rows_kernel(float*, long*)") == "top_of_rows_kernel"


def test_steps_are_where_the_gpu_was_idle_for_longest():
    steps = [[interval(0, 10), interval(8, 20), interval(23, 30)], [interval(40, 41)],
             [interval(55, 60), interval(57, 59)]]
    assert steps_of([*steps[2], *steps[0], *steps[1]], 3) == steps
    # What ended before the one ahead of it does not make the GPU idle.
    assert steps_of([interval(0, 50), interval(1, 2), interval(49, 51), interval(60, 61)], 2) == [
        [interval(0, 50), interval(1, 2), interval(49, 51)], [interval(60, 61)]]
    assert steps_of(steps[0], 1) == [steps[0]]
    with pytest.raises(ValueError, match="1 kernels for 2 steps"):
        steps_of(steps[1], 2)


def test_shares_are_counted_from_the_end_of_what_ended_before():
    step = [interval(0, 10, "first"), interval(4, 12, "second"), interval(5, 9, "second"), interval(15, 18, "third")]
    found = shares([step])
    assert found == {"first": {"us": 1, "count": 1}, "second": {"us": 11, "count": 2}, "third": {"us": 3, "count": 1}}
    assert span(step) == 18 == sum(share["us"] for share in found.values()) + 3  # idle before the third
    assert list(found) == ["second", "third", "first"]


def test_shares_are_medians_of_steps():
    steps = [[interval(0, length, PRODUCT)] for length in (5, 7, 100)]
    assert shares(steps) == {"product_kernel": {"us": 7, "count": 1}}
