"""The MoE decoder as an ONNX graph over a slotted key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.graph import CONTRIBUTED, OPSET, GraphBuilder, value
from export.weights import CheckpointWeights
from plugins.deepstack_add.onnx_function import deepstack_add_attributes, deepstack_add_domain, deepstack_add_function
from plugins.deepstack_add.operator import DOMAIN, NAME
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.fused_experts import FusedExperts
from qwen3vl.rope import mrope_axes, text_frequencies

PREFIX = "model.language_model"


def decoder_model(config: ModelConfig, checkpoint: Checkpoint, *, dtype: ir.DataType) -> tuple[ir.Model, GraphBuilder]:
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
    """
    return _DecoderGraph(config, checkpoint, dtype).build()


class _DecoderGraph:
    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, dtype: ir.DataType):
        self.config, self.text = config, config.text
        self.builder = GraphBuilder(dtype, group="embedding")
        self.weights = CheckpointWeights(checkpoint, self.builder)
        self.op, self.constant = self.builder.op, self.builder.constant

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
        embedding = self.weights.table(f"{PREFIX}.embed_tokens.weight", (self.text.vocab_size, self.text.hidden_size))
        hidden = self._embed(embedding)
        cos, sin = self._rotary()
        last_positions = self.op("Sub", self.total_lengths, self.constant(np.int32(1)))
        for index in range(self.text.num_hidden_layers):
            self.builder.group = f"layer-{index:03d}"
            layer = f"{PREFIX}.layers.{index}"
            normed = self._rms_norm(f"{layer}.input_layernorm", hidden, self.text.hidden_size)
            hidden = self.op("Add", hidden, self._attention(layer, index, normed, cos, sin, last_positions))
            normed = self._rms_norm(f"{layer}.post_attention_layernorm", hidden, self.text.hidden_size)
            mlp = self._experts if self.text.is_sparse(index) else self._dense_mlp
            hidden = self.op("Add", hidden, mlp(f"{layer}.mlp", normed))
            if index < self.config.vision.deepstack_levels:
                hidden = self._deepstack_add(hidden, level=index + 1)
        self.builder.group = "head"
        logits = self._logits(hidden, embedding)
        inputs = [self.token_ids, self.visual_rows, self.position_ids, self.total_lengths, self.max_total_length,
                  self.logit_rows, *(x for pair in self.past for x in pair)]
        outputs = [logits, *(x for pair in self.present for x in pair)]
        model = self.builder.model("decoder", inputs, outputs, [deepstack_add_function(OPSET)],
                                   {CONTRIBUTED: 1, **deepstack_add_domain()})
        return model, self.builder

    def _embed(self, embedding: ir.Value) -> ir.Value:
        """Word embeddings, or for visual tokens their row 0: zeros, to which the one operator adds it."""
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
        qkv = self._linear(f"{name}.qkv_proj", [f"{name}.{part}_proj" for part in "qkv"], x, text.hidden_size, sizes)
        query, key, val = self.op("Split", qkv, self.constant(sizes), axis=-1,
                                  outputs=[f"{name}.{part}" for part in ("query", "key", "value")])
        query = self._head_norm(f"{name}.q_norm", query, text.num_attention_heads)
        key = self._head_norm(f"{name}.k_norm", key, text.num_key_value_heads)
        query = self.op("RotaryEmbedding", query, cos, sin, num_heads=text.num_attention_heads)
        key = self.op("RotaryEmbedding", key, cos, sin, num_heads=text.num_key_value_heads)
        # The standard Attention copies the whole cache at each step; this one appends to it in place.
        attended = f"{name}.attended"
        outputs = [attended, *(x.name for x in self.present[index])]
        attended, *present = self.op(
            "GroupQueryAttention", query, key, val, *self.past[index], last_positions, self.max_total_length,
            domain=CONTRIBUTED, num_heads=text.num_attention_heads, kv_num_heads=text.num_key_value_heads,
            scale=text.head_dim**-0.5, outputs=outputs)
        for produced, declared in zip(present, self.present[index], strict=True):
            produced.type, produced.shape = declared.type, declared.shape
        self.present[index] = present
        return self._linear(f"{name}.o_proj", [f"{name}.o_proj"], attended, queries, [text.hidden_size])

    def _head_norm(self, name: str, x: ir.Value, heads: int) -> ir.Value:
        """RMS normalisation of each head by itself, [B, S, heads * head_dim] in and out."""
        per_head = self.op("Reshape", x, self.constant([0, 0, heads, self.text.head_dim]))
        normed = self._rms_norm(name, per_head, self.text.head_dim)
        return self.op("Reshape", normed, self.constant([0, 0, heads * self.text.head_dim]))

    def _experts(self, name: str, x: ir.Value) -> ir.Value:
        """Top-k experts by the softmax router, their weights renormalised to add up to 1."""
        text = self.text
        tokens = self.op("Reshape", x, self.constant([-1, text.hidden_size]))
        router = self.weights.matrix(f"{name}.gate.weight", [f"{name}.gate.weight"], text.hidden_size,
                                     [text.num_experts])
        experts = FusedExperts(self.weights.checkpoint, f"{name}.experts", text)
        gate_up, down = self.weights.experts_gate_up(experts), self.weights.experts_down(experts)
        mixed = self.op("MoE", tokens, self.op("MatMul", tokens, router), gate_up, None, down, domain=CONTRIBUTED,
                        k=text.num_experts_per_tok, normalize_routing_weights=1, activation_type="swiglu",
                        swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0)
        return self.op("Reshape", mixed, self.op("Shape", x))

    def _dense_mlp(self, name: str, x: ir.Value) -> ir.Value:
        hidden, inner = self.text.hidden_size, self.text.intermediate_size

        def project(part: str, x: ir.Value, inputs: int, outputs: int) -> ir.Value:
            weight = self.weights.matrix(f"{name}.{part}.weight", [f"{name}.{part}.weight"], inputs, [outputs])
            return self.builder.linear(x, weight, None)

        gate, up = project("gate_proj", x, hidden, inner), project("up_proj", x, hidden, inner)
        activated = self.op("Mul", gate, self.op("Sigmoid", gate))
        return project("down_proj", self.op("Mul", activated, up), inner, hidden)

    def _logits(self, hidden: ir.Value, embedding: ir.Value) -> ir.Value:
        text = self.text
        tokens = self.op("Reshape", hidden, self.constant([-1, text.hidden_size]))
        wanted = self._rms_norm(f"{PREFIX}.norm", self.op("Gather", tokens, self.logit_rows), text.hidden_size)
        if self.config.tie_word_embeddings:
            head = self.op("Transpose", embedding, perm=[1, 0])
        else:
            head = self.weights.matrix("lm_head.weight", ["lm_head.weight"], text.hidden_size, [text.vocab_size])
        logits = self.op("Cast", self.op("MatMul", wanted, head), to=int(ir.DataType.FLOAT), outputs=["logits"])[0]
        logits.type, logits.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["logit_count", text.vocab_size])
        return logits

    def _rms_norm(self, name: str, x: ir.Value, size: int) -> ir.Value:
        scale = self.weights.plain(f"{name}.weight", (size,))
        return self.op("RMSNormalization", x, scale, axis=-1, epsilon=self.text.rms_norm_eps)

    def _linear(self, label: str, names: Sequence[str], x: ir.Value, inputs: int, outputs: Sequence[int]) -> ir.Value:
        weight = self.weights.matrix(f"{label}.weight", [f"{name}.weight" for name in names], inputs, outputs)
        bias = None
        if self.text.attention_bias:
            bias = self.weights.vector(f"{label}.bias", [f"{name}.bias" for name in names], outputs)
        return self.builder.linear(x, weight, bias)
