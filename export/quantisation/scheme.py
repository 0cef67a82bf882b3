"""How weights are quantised: bits and block sizes."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3vl.errors import ArtifactError

# ONNX Runtime's MatMulNBits and QMoE take blocks of a power of two from this size on.
SMALLEST_BLOCK = 16


@dataclass(frozen=True)
class Blockwise:
    """Integers of `bits` (4 or 8), one scale and one zero point for each block of a row.

    Attributes:
        bits: width of a stored value.
        block_size: values of one block where the row's length allows it, a power of two.
    """

    bits: int
    block_size: int

    def block_for(self, label: str, *lengths: int) -> int:
        """The largest block, up to `block_size`, that divides rows of these lengths into at least two.

        One block a row is another layout in QMoE.

        Raises:
            ArtifactError: not even the smallest block fits; `label` names the weight.
        """
        block = self.block_size
        while block >= SMALLEST_BLOCK and any(length % block or length == block for length in lengths):
            block //= 2
        if block < SMALLEST_BLOCK:
            raise ArtifactError(f"{label} has rows of {' and '.join(map(str, lengths))} values, expected multiples of "
                                f"{SMALLEST_BLOCK} and at least {2 * SMALLEST_BLOCK}, to quantise them in blocks: "
                                "export with --precision fp32")
        return block


@dataclass(frozen=True)
class Quantisation:
    """A decoder's schemes. Router, norms, biases and embedding are not quantised.

    Attributes:
        weights: experts, attention and dense layers.
        head: the output projection.
    """

    weights: Blockwise
    head: Blockwise
