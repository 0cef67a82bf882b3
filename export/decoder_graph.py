"""The MoE decoder as an ONNX graph over a slotted key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.graph import CONTRIBUTED, OPSET, GraphBuilder, value
from export.projections import projections
from export.quantisation.scheme import Quantisation
from export.weights import CheckpointWeights
from plugins.deepstack_add.onnx_function import deepstack_add_attributes, deepstack_add_domain, deepstack_add_function
from plugins.deepstack_add.operator import DOMAIN, NAME
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.fused_experts import FusedExperts
from qwen3vl.rope import mrope_axes, text_frequencies

PREFIX = "model.language_model"
EMBEDDING = f"{PREFIX}.embed_tokens.weight"


def decoder_model(config: ModelConfig, checkpoint: Checkpoint, *, dtype: ir.DataType,
                  quantisation: Quantisation | None = None) -> tuple[ir.Model, GraphBuilder]:
    """Build the graph; weights are read later, when the model is written.

    One call continues B sequences by S tokens each. With B > 1, S is 1; no input is ever padded.

    Inputs:
        token_ids int32 [B, S]: an id of `vocab_size + (1 + D) * i` is visual token i of `visual_rows`.
        visual_rows float [R, H]: the request's table; [0, H] where the call has no visual token.
        position_ids int32 [3, B, S]: time, row, column.
        total_lengths int32 [B]: tokens of each sequence in the cache after this call.
        max_total_length int32 []: the largest of them.
        logit_rows int32 [N]: which of the B * S positions to give logits for, in row-major order.
        past_key.L, past_value.L float [B, kv_heads, capacity, head_dim] for each layer L.
    Outputs:
        logits float32 [N, vocab_size]; present_key.L, present_value.L, to be bound to the same memory as the past.

    Args:
        dtype: of activations, of the cache and of weights that are not quantised.
        quantisation: of the large matrices; None leaves them in `dtype`.
    """
    return _DecoderGraph(config, checkpoint, dtype, quantisation).build()


class _DecoderGraph:
    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, dtype: ir.DataType,
                 quantisation: Quantisation | None):
        self.config, self.text = config, config.text
        self.builder = GraphBuilder(dtype, group="embedding")
        self.weights = CheckpointWeights(checkpoint, self.builder)
        self.projections = projections(quantisation, self.text, self.weights)
        self.op, self.constant = self.builder.op, self.builder.constant
        # In float32, as on a CPU, a step's query is multiplied by the cached keys where they lie only if nothing scales
        # the product. The scale goes into the norm of the queries then; half precisions would round it once more.
        self.query_factor = self.text.head_dim**-0.5 if dtype == ir.DataType.FLOAT else 1.0

        def integers(name: str, *shape: int | str) -> ir.Value:
            return value(name, ir.DataType.INT32, shape)

        self.token_ids = integers("token_ids", "batch", "tokens")
        self.visual_rows = value("visual_rows", dtype, ["rows", self.text.hidden_size])
        self.position_ids = integers("position_ids", 3, "batch", "tokens")
        self.total_lengths, self.max_total_length = integers("total_lengths", "batch"), integers("max_total_length")
        self.logit_rows = integers("logit_rows", "logit_count")
        cache = ["batch", self.text.num_key_value_heads, "capacity", self.text.head_dim]
        self.past, self.present = ([[value(f"{when}_{part}.{layer}", dtype, cache) for part in ("key", "value")]
                                    for layer in range(self.text.num_hidden_layers)] for when in ("past", "present"))

    def build(self) -> tuple[ir.Model, GraphBuilder]:
        residual, update = self._embed(), None
        cos, sin = self._rotary()
        last_positions = self.op("Sub", self.total_lengths, self.constant(np.int32(1)))
        for index in range(self.text.num_hidden_layers):
            self.builder.group = f"layer-{index:03d}"
            layer = f"{PREFIX}.layers.{index}"
            normed, residual = self._add_and_norm(f"{layer}.input_layernorm", residual, update)
            update = self._attention(layer, index, normed, cos, sin, last_positions)
            normed, residual = self._add_and_norm(f"{layer}.post_attention_layernorm", residual, update)
            mlp = self._experts if self.text.is_sparse(index) else self._dense_mlp
            update = mlp(f"{layer}.mlp", normed)
            if index < self.config.vision.deepstack_levels:
                update = self._deepstack_add(update, level=index + 1)
        self.builder.group = "head"
        logits = self._logits(residual, update)
        inputs = [self.token_ids, self.visual_rows, self.position_ids, self.total_lengths, self.max_total_length,
                  self.logit_rows, *(x for pair in self.past for x in pair)]
        outputs = [logits, *(x for pair in self.present for x in pair)]
        model = self.builder.model("decoder", inputs, outputs, [deepstack_add_function(OPSET)],
                                   {CONTRIBUTED: 1, **deepstack_add_domain()})
        return model, self.builder

    def _embed(self) -> ir.Value:
        """Word embeddings, or for visual tokens their row 0: zeros, to which the one operator adds it."""
        embedding = self.weights.table(EMBEDDING, (self.text.vocab_size, self.text.hidden_size))
        vocab_size = self.constant(np.int32(self.text.vocab_size))
        ordinary = self.op("Less", self.token_ids, vocab_size)
        word = self.op("Gather", embedding, self.op("Where", ordinary, self.token_ids, self.constant(np.int32(0))))
        zero = self.op("CastLike", self.constant(np.float32(0)), word)
        hidden = self.op("Where", self.op("Unsqueeze", ordinary, self.constant([-1])), word, zero)
        return self._deepstack_add(hidden, level=0)

    def _deepstack_add(self, hidden: ir.Value, level: int) -> ir.Value:
        attributes = deepstack_add_attributes(level=level, vocab_size=self.text.vocab_size)
        return self.op(NAME, hidden, self.token_ids, self.visual_rows, domain=DOMAIN, **attributes)

    def _rotary(self) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines of interleaved M-RoPE, each frequency turned by its own axis: [B, S, head_dim / 2]."""
        axes = self.constant(mrope_axes(self.text), "mrope_axes")
        per_frequency = self.op("Gather", self.builder.cast(self.position_ids, ir.DataType.FLOAT), axes, axis=0)
        positions = self.op("Transpose", per_frequency, perm=[1, 2, 0])
        angles = self.op("Mul", positions, self.constant(text_frequencies(self.text), "text_frequencies"))
        return tuple(self.builder.cast(self.op(function, angles), self.builder.dtype) for function in ("Cos", "Sin"))

    def _attention(self, layer: str, index: int, x: ir.Value, cos: ir.Value, sin: ir.Value,
                   last_positions: ir.Value) -> ir.Value:
        text = self.text
        queries, keys = (heads * text.head_dim for heads in (text.num_attention_heads, text.num_key_value_heads))
        name, sizes = f"{layer}.self_attn", [queries, keys, keys]
        qkv = self._biased_linear(f"{name}.qkv_proj", [f"{name}.{part}_proj" for part in "qkv"], x, text.hidden_size,
                                  sizes)
        query, key, val = self.op("Split", qkv, self.constant(sizes), axis=-1,
                                  outputs=[f"{name}.{part}" for part in ("query", "key", "value")])
        query = self._head_norm(f"{name}.q_norm", query, text.num_attention_heads, factor=self.query_factor)
        key = self._head_norm(f"{name}.k_norm", key, text.num_key_value_heads)
        query = self.op("RotaryEmbedding", query, cos, sin, num_heads=text.num_attention_heads)
        key = self.op("RotaryEmbedding", key, cos, sin, num_heads=text.num_key_value_heads)
        # The standard Attention copies the whole cache at each step; this one appends to it in place.
        attended = f"{name}.attended"
        outputs = [attended, *(x.name for x in self.present[index])]
        attended, *present = self.op(
            "GroupQueryAttention", query, key, val, *self.past[index], last_positions, self.max_total_length,
            domain=CONTRIBUTED, num_heads=text.num_attention_heads, kv_num_heads=text.num_key_value_heads,
            scale=text.head_dim**-0.5 / self.query_factor, outputs=outputs)
        for produced, declared in zip(present, self.present[index], strict=True):
            produced.type, produced.shape = declared.type, declared.shape
        self.present[index] = present
        return self._biased_linear(f"{name}.o_proj", [f"{name}.o_proj"], attended, queries, [text.hidden_size])

    def _head_norm(self, name: str, x: ir.Value, heads: int, factor: float = 1.0) -> ir.Value:
        """RMS normalisation of each head by itself, times `factor`; [B, S, heads * head_dim] in and out."""
        per_head = self.op("Reshape", x, self.constant([0, 0, heads, self.text.head_dim]))
        scale = self.weights.plain(f"{name}.weight", (self.text.head_dim,), factor=factor)
        normed = self._rms_norm(per_head, scale)
        return self.op("Reshape", normed, self.constant([0, 0, heads * self.text.head_dim]))

    def _experts(self, name: str, x: ir.Value) -> ir.Value:
        """Top-k experts by the softmax router, their weights renormalised to add up to 1."""
        text = self.text
        router = self.weights.matrix(f"{name}.gate.weight", [f"{name}.gate.weight"], text.hidden_size,
                                     [text.num_experts])
        router_logits = self.op("Reshape", self.op("MatMul", x, router), self.constant([-1, text.num_experts]))
        return self.projections.experts(FusedExperts(self.weights.checkpoint, f"{name}.experts", text), x,
                                        router_logits)

    def _dense_mlp(self, name: str, x: ir.Value) -> ir.Value:
        hidden, inner = self.text.hidden_size, self.text.intermediate_size
        gate, up = (self._linear(f"{name}.{part}_proj", [f"{name}.{part}_proj"], x, hidden, [inner])
                    for part in ("gate", "up"))
        activated = self.op("Mul", gate, self.op("Sigmoid", gate))
        return self._linear(f"{name}.down_proj", [f"{name}.down_proj"], self.op("Mul", activated, up), inner, [hidden])

    def _logits(self, residual: ir.Value, update: ir.Value) -> ir.Value:
        text = self.text
        wanted = [self.op("Gather", self.op("Reshape", x, self.constant([-1, text.hidden_size])), self.logit_rows)
                  for x in (residual, update)]
        normed, _ = self._add_and_norm(f"{PREFIX}.norm", *wanted)
        head = EMBEDDING if self.config.tie_word_embeddings else "lm_head.weight"
        logits = self.projections.head(head, normed, text.hidden_size, text.vocab_size)
        if self.builder.dtype != ir.DataType.FLOAT:
            logits = self.builder.cast(logits, ir.DataType.FLOAT)
        logits.name = "logits"
        logits.type, logits.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["logit_count", text.vocab_size])
        return logits

    def _add_and_norm(self, name: str, residual: ir.Value, update: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """The sum of both, normalised and as it is; without an update, the residual is the sum."""
        scale = self.weights.plain(f"{name}.weight", (self.text.hidden_size,))
        if update is None:
            return self._rms_norm(residual, scale), residual
        normed, _, _, total = self.op("SkipSimplifiedLayerNormalization", residual, update, scale, domain=CONTRIBUTED,
                                      epsilon=self.text.rms_norm_eps, outputs=[f"{name}.normed", "", "", f"{name}.sum"])
        return normed, total

    def _rms_norm(self, x: ir.Value, scale: ir.Value) -> ir.Value:
        return self.op("RMSNormalization", x, scale, axis=-1, epsilon=self.text.rms_norm_eps)

    def _linear(self, label: str, names: Sequence[str], x: ir.Value, inputs: int, outputs: Sequence[int]) -> ir.Value:
        return self.projections.linear(f"{label}.weight", [f"{name}.weight" for name in names], x, inputs, outputs)

    def _biased_linear(self, label: str, names: Sequence[str], x: ir.Value, inputs: int,
                       outputs: Sequence[int]) -> ir.Value:
        product = self._linear(label, names, x, inputs, outputs)
        if not self.text.attention_bias:
            return product
        return self.op("Add", product, self.weights.vector(f"{label}.bias", [f"{name}.bias" for name in names],
                                                           outputs))
