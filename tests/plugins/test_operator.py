"""The numpy reference against the definition, token by token."""

import numpy as np
from hypothesis import given

from plugins.deepstack_add.operator import NO_ROW, deepstack_add, row_index
from tests.plugins.cases import Case, cases


@given(cases())
def test_reference_is_the_definition(case: Case) -> None:
    out = deepstack_add(*case.inputs, **case.attributes)
    assert out.dtype == case.hidden.dtype and out.shape == case.hidden.shape
    assert not np.shares_memory(out, case.hidden)
    for index in np.ndindex(case.token_ids.shape):
        row = int(case.token_ids[index]) - case.vocab_size + case.level
        visual = case.token_ids[index] >= case.vocab_size and row < len(case.visual_rows)
        expected = case.hidden[index] + case.visual_rows[row] if visual else case.hidden[index]
        np.testing.assert_array_equal(out[index], expected)
    assert np.isfinite(out).all(), "a row that no id names reached the output"


def test_row_index_of_extreme_ids_does_not_wrap() -> None:
    ids = np.array([-(2**31), -1, 99, 100, 107, 108, 2**31 - 1], dtype=np.int32)
    assert row_index(ids, level=0, vocab_size=100, row_count=8).tolist() == [*[NO_ROW] * 3, 0, 7, *[NO_ROW] * 2]
    assert row_index(ids, level=1, vocab_size=100, row_count=2**31).tolist()[-1] == 2**31 - 100
