"""The double-precision reference that prefill attention is checked with on a GPU: the operator's definition."""

import numpy as np
import torch

from bench.decoder_cuda.attention_prefill import Attention, reference
from bench.decoder_cuda.model import Shape
from plugins.decoder_kernels.operators import cached_attention

TOKENS, PAST, SPARE = 5, 7, 2


def test_reference_is_the_operator() -> None:
    shape, generator = Shape(heads=16, kv_heads=2), torch.Generator().manual_seed(0)

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator)

    angles, size = random(TOKENS, shape.head_size // 2), shape.head_size
    keys, values = random(2, shape.kv_heads, PAST + TOKENS + SPARE, size)
    total = torch.tensor([PAST + TOKENS], dtype=torch.int32)
    a = Attention(random(TOKENS, shape.qkv), random(size), random(size), angles.cos(), angles.sin(), keys, values,
                  total, out=torch.empty(0))
    batched = (x[None].numpy() for x in (a.cosines, a.sines, keys, values))
    out, new_keys, new_values = cached_attention(
        a.qkv[None].numpy(), a.query_norm.numpy(), a.key_norm.numpy(), *batched, total.numpy(),
        num_heads=shape.heads, kv_num_heads=shape.kv_heads, epsilon=shape.epsilon, scale=size**-0.5)
    queries, appended_keys, appended_values = a.heads(shape)
    there = slice(0, PAST + TOKENS)
    expected = reference(queries, torch.from_numpy(new_keys[0, :, there]), torch.from_numpy(new_values[0, :, there]))
    np.testing.assert_allclose(expected, out[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(appended_keys, new_keys[0, :, PAST : PAST + TOKENS], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(appended_values, new_values[0, :, PAST : PAST + TOKENS])
