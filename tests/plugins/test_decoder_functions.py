"""The decoder operators' ONNX functions compute what their numpy definitions do; test_step_end_functions.py has two."""

from __future__ import annotations

import numpy as np
import pytest

from plugins.decoder_kernels import operators
from tests.plugins.decoder_node import assert_close, numbers, run

HIDDEN, EXPERTS, INNER, K, HEADS, KV_HEADS, SIZE = 16, 6, 4, 3, 4, 2, 8


def int4_weights(seed: int, *shape: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and blocks of weights [..., K]."""
    generator = np.random.default_rng(seed)
    scales = generator.standard_normal((*shape[:-1], shape[-1] // block))
    zero_points = generator.integers(0, 16, scales.shape)
    return (generator.integers(0, 256, (*shape[:-1], shape[-1] // 2), np.uint8),
            np.stack([scales, zero_points], -1).astype(np.float32))


@pytest.mark.parametrize("tokens", [(1, 5), (3, 1)])
def test_products(tokens: tuple[int, int]) -> None:
    arrays = numbers(0, x=(*tokens, HIDDEN), weights=(24, HIDDEN))
    assert_close(run(operators.ROW_PRODUCT, arrays)[0], operators.row_product(**arrays))
    assert_close(run(operators.ROW_LOGITS, arrays)[0], operators.row_logits(**arrays))
    arrays |= numbers(1, residual=(*tokens, 24))
    assert_close(run(operators.ROW_PRODUCT_ADD, arrays)[0], operators.row_product_add(**arrays))


@pytest.mark.parametrize("tokens", [(1, 5), (3, 1)])
def test_add_norm(tokens: tuple[int, int]) -> None:
    arrays = numbers(2, h=(*tokens, HIDDEN), y=(*tokens, K, HIDDEN), norm=(HIDDEN,))
    expected = operators.add_norm(**arrays, epsilon=0.25)  # large enough to see where it goes
    for got, wanted in zip(run(operators.ADD_NORM, arrays, 2, epsilon=0.25), expected, strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("tokens", [(1, 5), (3, 1)])
def test_norms_of_the_input_and_of_wanted_tokens(tokens: tuple[int, int]) -> None:
    arrays = numbers(15, h=(*tokens, HIDDEN), norm=(HIDDEN,))
    assert_close(run(operators.INPUT_NORM, arrays, epsilon=0.25)[0], operators.input_norm(**arrays, epsilon=0.25))
    arrays |= {**numbers(16, y=(*tokens, K, HIDDEN)), "rows": np.array([2, 0, 2], np.int32)}
    arrays = {name: arrays[name] for name in ("h", "y", "norm", "rows")}
    assert_close(run(operators.WANTED_NORM, arrays, epsilon=0.25)[0], operators.wanted_norm(**arrays, epsilon=0.25))


@pytest.mark.parametrize("tokens", [(1, 5), (3, 1)])
def test_routed_experts(tokens: tuple[int, int]) -> None:
    arrays = numbers(3, h=(*tokens, HIDDEN), norm=(HIDDEN,), router=(EXPERTS, HIDDEN),
                     gate_up=(EXPERTS, 2 * INNER, HIDDEN), down=(EXPERTS, HIDDEN, INNER))
    expected = operators.routed_experts(**arrays, k=K, epsilon=0.25)
    assert_close(run(operators.ROUTED_EXPERTS, arrays, k=K, epsilon=0.25)[0], expected)


@pytest.mark.parametrize(("length", "block"), [(32, 16), (96, 32), (128, 128), (384, 128), (256, 64)])
@pytest.mark.parametrize("tokens", [(1, 5), (3, 1)])
def test_int4_products(tokens: tuple[int, int], length: int, block: int) -> None:
    codes, blocks = int4_weights(5, 24, length, block=block)
    arrays = {**numbers(6, x=(*tokens, length)), "codes": codes, "blocks": blocks}
    assert_close(run(operators.INT4_ROW_PRODUCT, arrays)[0], operators.int4_row_product(**arrays))
    arrays |= numbers(7, residual=(*tokens, 24))
    assert_close(run(operators.INT4_ROW_PRODUCT_ADD, arrays)[0], operators.int4_row_product_add(**arrays))


@pytest.mark.parametrize(("length", "block"), [(64, 32), (256, 128)])
@pytest.mark.parametrize("tokens", [(1, 5), (3, 1)])
def test_int8_logits(tokens: tuple[int, int], length: int, block: int) -> None:
    generator = np.random.default_rng(13)
    shape = 24, length // block
    scales, zero_points = generator.standard_normal(shape), generator.integers(0, 256, shape)
    arrays = {**numbers(14, x=(*tokens, length)), "codes": generator.integers(0, 256, (24, length), np.uint8),
              "blocks": np.stack([scales, zero_points], -1).astype(np.float32)}
    assert_close(run(operators.INT8_ROW_LOGITS, arrays)[0], operators.int8_row_logits(**arrays))


@pytest.mark.parametrize("tokens", [(1, 5), (3, 1)])
def test_int4_routed_experts(tokens: tuple[int, int]) -> None:
    hidden, inner, block = 256, 64, 32
    arrays = numbers(8, h=(*tokens, hidden), norm=(hidden,), router=(EXPERTS, hidden))
    for name, shape in (("gate_up", (EXPERTS, 2 * inner, hidden)), ("down", (EXPERTS, hidden, inner))):
        codes, blocks = int4_weights(9, *shape, block=block)
        blocks[..., 0] *= 0.1 * shape[-1] ** -0.5  # activations of about unit size
        arrays |= {name: codes, f"{name}_blocks": blocks}
    expected = operators.int4_routed_experts(**arrays, k=K, epsilon=0.25)
    assert_close(run(operators.INT4_ROUTED_EXPERTS, arrays, k=K, epsilon=0.25)[0], expected)


@pytest.mark.parametrize(("count", "lengths"), [(1, [4, 1, 9]), (3, [3]), (3, [8])])
def test_cached_attention(count: int, lengths: list[int]) -> None:
    batch, attributes = len(lengths), {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "epsilon": 0.25, "scale": 0.3}
    cache = (batch, KV_HEADS, 10, SIZE)
    arrays = numbers(4, qkv=(batch, count, (HEADS + 2 * KV_HEADS) * SIZE), query_norm=(SIZE,), key_norm=(SIZE,),
                     angles=(batch, count, SIZE // 2), keys=cache, values=cache)
    angles = arrays.pop("angles")
    arrays = {"qkv": arrays.pop("qkv"), "query_norm": arrays.pop("query_norm"), "key_norm": arrays.pop("key_norm"),
              "cosines": np.cos(angles), "sines": np.sin(angles), **arrays,
              "total_lengths": np.array(lengths, np.int32)}
    expected = operators.cached_attention(**arrays, **attributes)
    got = run(operators.CACHED_ATTENTION, arrays, 3, **attributes)
    assert_close(got[0], expected[0])
    for b, length in enumerate(lengths):  # beyond its tokens a present cache that is no past one is undefined
        for part in (1, 2):
            assert_close(got[part][b, :, :length], expected[part][b, :, :length])
