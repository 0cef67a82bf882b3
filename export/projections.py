"""The decoder's matrix products: the one place that chooses operators and weight layouts for a precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import onnx_ir as ir

from export.graph import CONTRIBUTED, GraphBuilder
from export.quantisation.scheme import Blockwise, Quantisation
from export.weights import CheckpointWeights
from qwen3vl.config import TextConfig
from qwen3vl.fused_experts import FusedExperts

# Qwen's SwiGLU, its gate and up rows interleaved: the CPU's kernels take no other order.
SWIGLU = {"normalize_routing_weights": 1, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0,
          "activation_beta": 0.0}
# Lets kernels round activations to 8 bits, block by block, so that the processor's integer dot products do the work.
INT8_ACTIVATIONS = 4


class Projections(Protocol):
    """Products of activations with weights of the checkpoint."""

    def linear(self, label: str, names: Sequence[str], x: ir.Value, inputs: int, outputs: Sequence[int]) -> ir.Value:
        """x [..., inputs] times the weights [out, in] of `names`, one after the other: [..., sum(outputs)]."""

    def head(self, name: str, x: ir.Value, inputs: int, outputs: int) -> ir.Value:
        """The output projection with the table `name` [outputs, inputs]: x [N, inputs] to logits [N, outputs]."""

    def experts(self, experts: FusedExperts, tokens: ir.Value, router_logits: ir.Value) -> ir.Value:
        """Mixture of experts of tokens [T, H] by router logits [T, E]: [T, H]."""


def projections(quantisation: Quantisation | None, config: TextConfig, weights: CheckpointWeights) -> Projections:
    """Those of a precision. None leaves weights in the type of the activations."""
    if quantisation is None:
        return WideProjections(config, weights)
    return BlockwiseProjections(config, weights, quantisation)


class WideProjections:
    """`MatMul` and `MoE` on weights of the activations' type."""

    def __init__(self, config: TextConfig, weights: CheckpointWeights):
        self._config, self._weights, self._op = config, weights, weights.builder.op

    def linear(self, label: str, names: Sequence[str], x: ir.Value, inputs: int, outputs: Sequence[int]) -> ir.Value:
        return self._op("MatMul", x, self._weights.matrix(label, names, inputs, outputs))

    def head(self, name: str, x: ir.Value, inputs: int, outputs: int) -> ir.Value:
        table = self._weights.table_if_present(name)
        if table is not None:
            return self._op("MatMul", x, self._op("Transpose", table, perm=[1, 0]))
        return self.linear(name, [name], x, inputs, [outputs])

    def experts(self, experts: FusedExperts, tokens: ir.Value, router_logits: ir.Value) -> ir.Value:
        gate_up, down = self._weights.experts_gate_up(experts), self._weights.experts_down(experts)
        return self._op("MoE", tokens, router_logits, gate_up, None, down, domain=CONTRIBUTED,
                        k=self._config.num_experts_per_tok, **SWIGLU)


class BlockwiseProjections:
    """`MatMulNBits` and `QMoE` on weights of a few bits."""

    def __init__(self, config: TextConfig, weights: CheckpointWeights, quantisation: Quantisation):
        self._config, self._weights, self._quantisation = config, weights, quantisation
        self._builder: GraphBuilder = weights.builder

    def linear(self, label: str, names: Sequence[str], x: ir.Value, inputs: int, outputs: Sequence[int]) -> ir.Value:
        return self._product(label, names, x, inputs, outputs, self._quantisation.weights)

    def head(self, name: str, x: ir.Value, inputs: int, outputs: int) -> ir.Value:
        # With tied embeddings the table is there already, but wide, for looking words up.
        label = f"{name}.head" if self._weights.table_if_present(name) is not None else name
        return self._product(label, [name], x, inputs, [outputs], self._quantisation.head)

    def _product(self, label: str, names: Sequence[str], x: ir.Value, inputs: int, outputs: Sequence[int],
                 scheme: Blockwise) -> ir.Value:
        block = scheme.block_for(label, inputs)
        weight = self._weights.quantised_matrix(label, names, inputs, outputs, scheme.bits, block)
        return self._builder.op("MatMulNBits", x, *weight, domain=CONTRIBUTED, K=inputs, N=sum(outputs),
                                bits=scheme.bits, block_size=block, accuracy_level=INT8_ACTIVATIONS)

    def experts(self, experts: FusedExperts, tokens: ir.Value, router_logits: ir.Value) -> ir.Value:
        scheme = self._quantisation.weights
        block = scheme.block_for(experts.gate_up_name.removesuffix(".gate_up_proj"), experts.gate_up_shape[1],
                                 experts.down_shape[1])
        up_codes, up_scales, up_zeros = self._weights.quantised_gate_up(experts, scheme.bits, block)
        down_codes, down_scales, down_zeros = self._weights.quantised_down(experts, scheme.bits, block)
        return self._builder.op(
            "QMoE", tokens, router_logits, up_codes, up_scales, None, down_codes, down_scales, None, None, None, None,
            up_zeros, down_zeros, domain=CONTRIBUTED, k=self._config.num_experts_per_tok,
            expert_weight_bits=scheme.bits, block_size=block, accuracy_level=INT8_ACTIVATIONS, **SWIGLU)
