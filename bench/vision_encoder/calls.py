"""The calls that are measured, and the arithmetic that each of them needs."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3vl.config import VisionConfig


@dataclass(frozen=True)
class Call:
    """`frames` images of one size; `grid` is (rows, columns) in patches."""

    name: str
    frames: int
    grid: tuple[int, int]

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        return self.frames * self.patches


LARGEST = Call("1920x1080", 1, (68, 120))
CALLS = (LARGEST, Call("8 of 448x448", 8, (28, 28)), Call("1280x720", 1, (44, 80)), Call("448x448", 1, (28, 28)))


def operations(vision: VisionConfig, call: Call) -> dict[str, float]:
    """Multiplications and additions of one call, in attention and in all."""
    size = vision.hidden_size
    attention = 4.0 * vision.depth * call.tokens * call.patches * size
    block = 2.0 * call.tokens * (4 * size**2 + 2 * size * vision.intermediate_size)
    merger = 2.0 * call.tokens / vision.merge_unit * vision.merged_size * (vision.merged_size + vision.out_hidden_size)
    embedding = 2.0 * call.tokens * vision.patch_dim * size
    return {"attention": attention, "all": attention + vision.depth * block + embedding
            + (1 + vision.deepstack_levels) * merger}


def least_bytes(vision: VisionConfig, call: Call, element: int) -> float:
    """Bytes to read and write where no two matrix products share a kernel: weights once, and each product's input and
    output once, with all that lies between them (norms, rotation, activation) done on the way."""
    size, inner = vision.hidden_size, vision.intermediate_size
    weights = vision.depth * (4 * size**2 + 2 * size * inner) + vision.patch_dim * size + (
        1 + vision.deepstack_levels) * vision.merged_size * (vision.merged_size + vision.out_hidden_size)
    # qkv: in, out; attention: in, out; output product: in, out and the residual; both products of the MLP likewise.
    block = call.tokens * ((size + 3 * size) + (3 * size + size) + 3 * size + (size + inner) + (inner + 2 * size))
    return float(element) * (weights + vision.depth * block)
