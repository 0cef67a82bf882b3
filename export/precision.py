"""The precisions of an export."""

from __future__ import annotations

import onnx_ir as ir

from export.quantisation.scheme import Blockwise, Quantisation

# Element types of activations, and of weights where they are not quantised.
PRECISIONS = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
# The decoder's weights as integers, everything else as in WIDE.
QUANTISED = {"int4": Quantisation(weights=Blockwise(bits=4, block_size=128), head=Blockwise(bits=8, block_size=128)),
             "int8": Quantisation(weights=Blockwise(bits=8, block_size=128), head=Blockwise(bits=8, block_size=128))}
WIDE = "fp32"
# The same weights and all else in a half type, for GPUs: keys of QUANTISED and of PRECISIONS.
MIXED = {f"int4-{half}": ("int4", half) for half in ("fp16", "bf16")}


def quantisation_of(precision: str) -> Quantisation | None:
    """How the decoder's weights are quantised, None where they are not."""
    return QUANTISED.get(MIXED.get(precision, (precision,))[0])


def wide_precision(precision: str) -> str:
    """The key of `PRECISIONS` that activations and unquantised weights have, the whole vision encoder among them."""
    if precision in MIXED:
        return MIXED[precision][1]
    return WIDE if precision in QUANTISED else precision
