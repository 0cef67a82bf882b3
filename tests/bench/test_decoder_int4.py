"""The weights that the benchmark of the int4 kernels checks against."""

import numpy as np
import pytest
import torch

from bench.decoder_cuda.int4_model import Int4Rows, Int8Rows
from plugins.decoder_kernels import int8_rows
from plugins.decoder_kernels.int4_rows import dequantise_rows


@pytest.mark.parametrize(("sizes", "block"), [((24, 256), 128), ((3, 8, 768), 64), ((5, 128), 32)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_references_are_made_of_the_weights_that_the_codes_stand_for(sizes: tuple[int, ...], block: int,
                                                                     dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = Int4Rows.random(*sizes, block=block, dtype=dtype, device="cpu")
    assert rows.block == block and rows.nbytes == np.prod(sizes) // 2 + np.prod(sizes) // block * 4
    expected = dequantise_rows(rows.codes.numpy(), rows.blocks.float().numpy())
    np.testing.assert_array_equal(rows.wide().numpy(), expected)
    assert 0.5 < expected.std() * sizes[-1] ** 0.5 < 2


@pytest.mark.parametrize(("length", "block"), [(256, 128), (64, 32)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_is_the_reference_of_the_head(length: int, block: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = Int8Rows.random(24, length, block=block, dtype=dtype, device="cpu")
    assert rows.block == block and rows.nbytes == 24 * length + 24 * length // block * 4
    expected = int8_rows.dequantise_rows(rows.codes.numpy(), rows.blocks.float().numpy())
    np.testing.assert_array_equal(rows.wide().numpy(), expected)
    assert 0.5 < expected.std() * length ** 0.5 < 2
