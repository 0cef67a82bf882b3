"""Quantised weights as ONNX Runtime's operators read them, against the matrices that the integers stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from safetensors.numpy import save_file

from export.graph import GraphBuilder, value
from export.precision import QUANTISED
from export.projections import BlockwiseProjections
from export.quantisation.blocks import dequantise, quantise
from export.quantisation.scheme import Blockwise, Quantisation
from export.weights import CheckpointWeights
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError, CheckpointError
from qwen3vl.fused_experts import FusedExperts
from tests.support.checkpoints import make_config

HIDDEN, INNER, EXPERTS, CHOSEN = 128, 96, 6, 2
BITS = sorted({scheme.weights.bits for scheme in QUANTISED.values()})
# Activations are rounded to 8 bits: half a step of 1/127 of a block's largest, averaged over the products of a row.
TOLERANCE = 0.01


def checkpoint_of(folder: Path, **tensors: np.ndarray) -> Checkpoint:
    save_file(tensors, folder / "model.safetensors")
    return Checkpoint.open(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("config")
    make_config(text={"hidden_size": HIDDEN, "moe_intermediate_size": INNER, "num_experts": EXPERTS,
                      "num_experts_per_tok": CHOSEN}).save_pretrained(folder)
    return ModelConfig.from_checkpoint(folder).text


def random(*shape: int, seed: int) -> np.ndarray:
    """bf16 values whose mean is not 0, so that a wrong zero point shows."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) + np.float32(0.3)
    return values.astype(ml_dtypes.bfloat16)


def session_of(builder: GraphBuilder, inputs: Sequence[ir.Value], output: ir.Value) -> onnxruntime.InferenceSession:
    output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None, None])
    model = builder.model("test", inputs, [output], domains={"com.microsoft": 1})
    for initializer in model.graph.initializers.values():  # lazy weights become plain ones, computed as for a file
        tensor = initializer.const_value
        initializer.const_value = ir.Tensor(tensor.numpy(), name=tensor.name)
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("bits", BITS)
def test_a_product_is_that_with_the_dequantised_weights(config, bits: int, block: int, tmp_path: Path):
    weights = [random(40, 3 * block, seed=1), random(24, 3 * block, seed=2)]
    builder = GraphBuilder(ir.DataType.FLOAT)
    checkpoint = checkpoint_of(tmp_path, first=weights[0], second=weights[1])
    scheme = Blockwise(bits, block)
    products = BlockwiseProjections(config, CheckpointWeights(checkpoint, builder), Quantisation(scheme, scheme))
    x = value("x", ir.DataType.FLOAT, ["rows", 3 * block])
    y = products.linear("both", ["first", "second"], x, 3 * block, [40, 24])
    assert builder.nodes[-1].attributes["block_size"].as_int() == block
    session = session_of(builder, [x], y)
    dequantised = np.concatenate([dequantise(quantise(weight, bits, block)) for weight in weights])
    for rows in (1, 5, 33):  # kernels differ for one row and for many
        feed = np.random.default_rng(rows).standard_normal((rows, 3 * block), dtype=np.float32)
        assert relative_error(session.run(None, {"x": feed})[0], feed @ dequantised.T) < TOLERANCE


@pytest.mark.parametrize("bits", BITS)
def test_experts_are_those_of_the_dequantised_weights(config, bits: int, tmp_path: Path):
    gate_up, down = random(EXPERTS, 2 * INNER, HIDDEN, seed=3), random(EXPERTS, HIDDEN, INNER, seed=4)
    gate_up, down = (gate_up / 16).astype(gate_up.dtype), (down / 16).astype(down.dtype)
    builder = GraphBuilder(ir.DataType.FLOAT)
    checkpoint = checkpoint_of(tmp_path, **{"e.gate_up_proj": gate_up, "e.down_proj": down})
    products = BlockwiseProjections(config, CheckpointWeights(checkpoint, builder),
                                    Quantisation(Blockwise(bits, 128), Blockwise(8, 128)))
    x, router = value("x", ir.DataType.FLOAT, ["rows", HIDDEN]), value("router", ir.DataType.FLOAT, ["rows", EXPERTS])
    y = products.experts(FusedExperts(checkpoint, "e", config), x, router)
    block = builder.nodes[-1].attributes["block_size"].as_int()
    assert block == 32  # the largest that divides 128 and 96
    session = session_of(builder, [x, router], y)
    parts = [[dequantise(quantise(matrix, bits, block)) for matrix in stack] for stack in (gate_up, down)]
    for rows in (0, 1, 7, 64):
        generator = np.random.default_rng(rows)
        tokens = generator.standard_normal((rows, HIDDEN), dtype=np.float32)
        logits = 3 * generator.standard_normal((rows, EXPERTS), dtype=np.float32)
        actual = session.run(None, {"x": tokens, "router": logits})[0]
        assert actual.shape == (rows, HIDDEN)
        assert not rows or relative_error(actual, mixture(tokens, logits, *parts)) < 2 * TOLERANCE


def mixture(tokens: np.ndarray, logits: np.ndarray, gate_up: list[np.ndarray], down: list[np.ndarray]) -> np.ndarray:
    """The mixture of experts by its definition, gates first."""
    output = np.zeros_like(tokens)
    for row, (token, scores) in enumerate(zip(tokens, logits, strict=True)):
        chosen = np.argsort(-scores)[:CHOSEN]
        shares = np.exp(scores[chosen] - scores[chosen].max())
        for expert, share in zip(chosen, shares / shares.sum(), strict=True):
            gate, up = np.split(gate_up[expert] @ token, 2)
            output[row] += share * (down[expert] @ (gate / (1 + np.exp(-gate)) * up))
    return output


def test_rows_that_no_block_divides_are_refused_by_name():
    with pytest.raises(ArtifactError, match=r"layers\.3.*40 and 64"):
        Blockwise(4, 128).block_for("layers.3", 40, 64)
    assert Blockwise(4, 128).block_for("", 2048, 768) == 128
    assert Blockwise(4, 128).block_for("", 192, 80) == 16
    assert Blockwise(4, 128).block_for("", 128) == 64  # one block a row would be another layout


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path):
    weight = np.ones((4, 64), np.float32)
    weight[2, 5] = np.inf
    builder = GraphBuilder(ir.DataType.FLOAT)
    weights = CheckpointWeights(checkpoint_of(tmp_path, broken=weight), builder)
    codes, *_ = weights.quantised_matrix("broken", ["broken"], 64, [4], 4, 32)
    with pytest.raises(CheckpointError, match="broken"):
        codes.const_value.numpy()
