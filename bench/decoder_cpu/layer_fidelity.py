"""Products and experts of the real width with quantised weights, against the same in float32."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
from safetensors.numpy import save_file

from export.graph import GraphBuilder, value
from export.projections import Projections, projections
from export.quantisation.scheme import Blockwise, Quantisation
from export.weights import CheckpointWeights
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import TextConfig
from qwen3vl.fused_experts import FusedExperts

CONFIG = TextConfig(hidden_size=2048, num_hidden_layers=1, num_attention_heads=32, vocab_size=1, head_dim=128,
                    max_position_embeddings=1, num_key_value_heads=4, intermediate_size=0, moe_intermediate_size=768,
                    num_experts=16, num_experts_per_tok=8, rms_norm_eps=1e-6, rope_theta=1e4,
                    mrope_section=(24, 20, 20), attention_bias=False, decoder_sparse_step=1, mlp_only_layers=())
SCHEMES = tuple(Blockwise(bits, block) for bits in (4, 8) for block in (32, 64, 128))
TOKENS = 64
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal weights": lambda random, shape: random.standard_normal(shape, dtype=np.float32),
    "heavy tails": lambda random, shape: random.standard_t(5, shape).astype(np.float32)}


def layer_errors() -> dict:
    """For each distribution of weights and each scheme: relative error (root mean square) of what comes out."""
    results: dict = {}
    for name, draw in DRAWS.items():
        with tempfile.TemporaryDirectory() as folder, _checkpoint(Path(folder), draw) as checkpoint:
            tokens, router = _inputs()
            exact = _outputs(checkpoint, None, tokens, router)
            for scheme in SCHEMES:
                found = _outputs(checkpoint, Quantisation(scheme, scheme), tokens, router)
                label = f"int{scheme.bits}, blocks of {scheme.block_size}"
                results.setdefault(name, {})[label] = {
                    part: float(np.sqrt(np.mean((found[part] - exact[part]) ** 2) / np.mean(exact[part] ** 2)))
                    for part in exact}
                print(f"{name}, {label}: {results[name][label]}", file=sys.stderr, flush=True)
    return results


def _checkpoint(folder: Path, draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Checkpoint:
    random, text = np.random.default_rng(0), CONFIG
    qkv = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    shapes = {"qkv": (qkv, text.hidden_size),
              "experts.gate_up_proj": (text.num_experts, 2 * text.moe_intermediate_size, text.hidden_size),
              "experts.down_proj": (text.num_experts, text.hidden_size, text.moe_intermediate_size)}
    save_file({name: (draw(random, shape) / shape[-1] ** 0.5).astype(ml_dtypes.bfloat16)
               for name, shape in shapes.items()}, folder / "model.safetensors")
    return Checkpoint.open(folder)


def _inputs() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return (random.standard_normal((TOKENS, CONFIG.hidden_size), dtype=np.float32),
            random.standard_normal((TOKENS, CONFIG.num_experts), dtype=np.float32))


def _outputs(checkpoint: Checkpoint, quantisation: Quantisation | None, tokens: np.ndarray,
             router: np.ndarray) -> dict[str, np.ndarray]:
    qkv = checkpoint.shape("qkv")[0]

    def attention_in(products: Projections, x: ir.Value, _: ir.Value) -> ir.Value:
        return products.linear("qkv.weight", ["qkv"], x, CONFIG.hidden_size, [qkv])

    def experts(products: Projections, x: ir.Value, logits: ir.Value) -> ir.Value:
        return products.experts(FusedExperts(checkpoint, "experts", CONFIG), x, logits)

    return {name: _run(checkpoint, quantisation, part, tokens, router)
            for name, part in (("attention's input product", attention_in), ("experts", experts))}


def _run(checkpoint: Checkpoint, quantisation: Quantisation | None,
         part: Callable[[Projections, ir.Value, ir.Value], ir.Value], tokens: np.ndarray,
         router: np.ndarray) -> np.ndarray:
    builder = GraphBuilder(ir.DataType.FLOAT)
    inputs = [value(name, ir.DataType.FLOAT, array.shape) for name, array in (("x", tokens), ("router", router))]
    output = part(projections(quantisation, CONFIG, CheckpointWeights(checkpoint, builder)), *inputs)
    output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None, None])
    model = builder.model("part", inputs, [output], domains={"com.microsoft": 1})
    for initializer in model.graph.initializers.values():
        tensor = initializer.const_value
        initializer.const_value = ir.Tensor(tensor.numpy(), name=tensor.name)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    feeds = {"x": tokens, "router": router}
    return session.run(None, {item.name: feeds[item.name] for item in session.get_inputs()})[0]
