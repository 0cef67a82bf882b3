"""How next tokens are chosen, for the kernel that does it: rows of temperature, top_k, top_p, number in [0, 1)."""

from __future__ import annotations

import torch

BELOW_ONE = 1 - 2**-53


def random_draws(rows: int, k: int) -> torch.Tensor:
    """float64 [rows, 4] on the GPU; each number is one of its special values half of the time.

    With a temperature of 1e30 all logits come to the same, and sums are exactly what they are compared with.
    """
    def some(special: list[float], others: torch.Tensor) -> torch.Tensor:
        which = torch.randint(2 * len(special), (rows,))
        values = torch.tensor(special, dtype=torch.float64)
        return torch.where(which < len(special), values[which.clamp(max=len(special) - 1)], others)

    def uniform() -> torch.Tensor:
        return torch.rand(rows, dtype=torch.float64)

    draws = torch.stack([some([0, 1], 0.2 + 2 * uniform()),
                         some([0, 1, k, 1000], torch.randint(k + 1, (rows,)).double()),
                         some([1, 1e-3], uniform()), some([0, BELOW_ONE], uniform())], 1)
    exact = torch.rand(rows) < 0.2
    draws[exact, 0] = 1e30
    draws[exact, 2:] = torch.randint(1, 4, (int(exact.sum()), 2)).double() / 4
    return draws.cuda()


def equal_draws(rows: int, temperature: float, top_k: int = 0, top_p: float = 1, number: float = 0) -> torch.Tensor:
    """float64 [rows, 4] on the GPU."""
    return torch.tensor([[temperature, top_k, top_p, number]], device="cuda", dtype=torch.float64).repeat(rows, 1)
