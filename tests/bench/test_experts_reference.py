"""The experts of a chunk are checked against what the operator's definition gives; routings are what they say."""

import numpy as np
import torch

from bench.decoder_cuda.experts_reference import reference, routings
from bench.decoder_cuda.model import Layer
from plugins.decoder_kernels.operators import routed_experts

TOKENS, HIDDEN, INNER, EXPERTS, K = 9, 16, 6, 8, 3


def test_reference_is_the_operators_sum() -> None:
    generator = np.random.default_rng(0)
    h, router = generator.normal(size=(TOKENS, HIDDEN)), generator.normal(size=(EXPERTS, HIDDEN))
    gate_up = generator.normal(size=(EXPERTS, 2 * INNER, HIDDEN))
    down = generator.normal(size=(EXPERTS, HIDDEN, INNER))
    expected = routed_experts(h, np.ones(HIDDEN), router, gate_up, down, k=K, epsilon=0.0).sum(-2)

    x = torch.from_numpy(h / np.sqrt((h**2).mean(-1, keepdims=True)))
    logits, chosen = (x @ torch.from_numpy(router).T).topk(K)
    unused = torch.empty(0)
    layer = Layer(*[unused] * 7, torch.from_numpy(gate_up), torch.from_numpy(down))
    got = reference(x, chosen, logits.softmax(-1), layer)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_routings_choose_different_experts_alike_or_few_of_them() -> None:
    used = {}
    for name, chosen in routings(300, 8, 128).items():
        assert chosen.shape == (300, 8) and int(chosen.min()) >= 0 and int(chosen.max()) < 128
        assert all(len(set(row)) == 8 for row in chosen.tolist())
        used[name] = np.bincount(chosen.flatten(), minlength=128)
    assert used["uniform"].min() > 0 and used["uniform"].max() < 50
    assert (used["skewed"] == 0).sum() > 64 and used["skewed"].max() > 200
    assert sorted(used["same experts"])[-8:] == [300] * 8 and used["same experts"].sum() == 2400
