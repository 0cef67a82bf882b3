"""The torch operator against the numpy reference, and torch's own checks of operators."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import plugins.deepstack_add.torch_op  # noqa: F401  registers the operator
from plugins.deepstack_add.operator import deepstack_add
from tests.plugins.cases import Case, cases


def call(case: Case, dtype: torch.dtype | None = None) -> torch.Tensor:
    hidden, token_ids, visual_rows = (torch.from_numpy(array) for array in case.inputs)
    if dtype is not None:
        hidden, visual_rows = hidden.to(dtype), visual_rows.to(dtype)
    return torch.ops.qwen3vl.deepstack_add(hidden, token_ids, visual_rows, case.level, case.vocab_size)


@pytest.mark.parametrize("id_type", [np.int32, np.int64])
@pytest.mark.parametrize("float_type", [np.float32, np.float16])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_gives_the_reference(float_type: type, id_type: type, data: st.DataObject) -> None:
    case: Case = data.draw(cases(float_type, id_type))
    np.testing.assert_array_equal(call(case).numpy(), deepstack_add(*case.inputs, **case.attributes))


@settings(deadline=None, max_examples=30)
@given(cases())
def test_bfloat16_sum_is_rounded_once(case: Case) -> None:
    rounded = [torch.from_numpy(array).bfloat16().double().numpy() for array in (case.hidden, case.visual_rows)]
    exact = deepstack_add(rounded[0], case.token_ids, rounded[1], **case.attributes)
    torch.testing.assert_close(call(case, torch.bfloat16), torch.from_numpy(exact).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [0, 8])
def test_passes_torchs_checks_of_operators(rows: int) -> None:
    ids = torch.tensor([[1, 100, 101], [5, 104, 2**31 - 1]], dtype=torch.int32)
    arguments = (torch.randn(2, 3, 8), ids, torch.randn(rows, 8), 1, 100)
    checks = torch.library.opcheck(torch.ops.qwen3vl.deepstack_add, arguments)
    assert set(checks.values()) == {"SUCCESS"} and "test_faketensor" in checks


@pytest.mark.parametrize(("change", "error", "message"), [
    ({0: torch.zeros(2, 4, dtype=torch.float64)}, TypeError, "hidden is torch.float64"),
    ({2: torch.zeros(4, 4, dtype=torch.float16)}, TypeError, "visual_rows torch.float16"),
    ({1: torch.zeros(2)}, TypeError, "token_ids is torch.float32"),
    ({1: torch.zeros(3, dtype=torch.int32)}, ValueError, r"token_ids \(3,\)"),
    ({2: torch.zeros(4, 5)}, ValueError, r"visual_rows \(4, 5\)"),
])
def test_refuses_operands_that_do_not_fit(change: dict[int, torch.Tensor], error: type, message: str) -> None:
    operands = {0: torch.zeros(2, 4), 1: torch.zeros(2, dtype=torch.int32), 2: torch.zeros(4, 4), **change}
    with pytest.raises(error, match=message):
        torch.ops.qwen3vl.deepstack_add(operands[0], operands[1], operands[2], 1, 100)
