"""Weights of 4 bits with all else in a half type, for GPUs: the export, its rewritten graph, the check's reference."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from engines.fidelity.cases import make_cases
from engines.fidelity.comparison import Tolerance
from engines.fidelity.expected import LOGITS, expectations
from engines.onnxruntime.cuda_decoder_graph import use_decoder_kernels
from export.exporter import export
from export.precision import MIXED, PRECISIONS, wide_precision
from qwen3vl.processor import Processor
from tests.support.checkpoints import make_checkpoint
from tests.support.processor_folder import add_processor_files

# Rows that the kernels' order of 4-bit codes is for.
TEXT = {"hidden_size": 128, "moe_intermediate_size": 64, "num_attention_heads": 4, "head_dim": 32,
        "num_hidden_layers": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_interleaved": True,
                            "mrope_section": [6, 5, 5]}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_processor_files(make_checkpoint(tmp_path_factory.mktemp("checkpoint"), text=TEXT))


@pytest.fixture(scope="module")
def exports(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {precision: tmp_path_factory.mktemp(precision) for precision in ("int4", *MIXED)}
    for precision, folder in folders.items():
        export(checkpoint, folder, precision)
    return folders


def rewritten(folder: Path) -> dict[str, ir.TensorProtocol]:
    model = ir.load(folder / "onnx/decoder.onnx")
    use_decoder_kernels(model)
    return {name: value.const_value for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("precision", MIXED)
def test_codes_are_those_of_int4_and_all_else_is_half(exports: dict[str, Path], precision: str) -> None:
    dtype = PRECISIONS[wide_precision(precision)]
    for name, expected in (("decoder", {dtype, ir.DataType.UINT8}), ("vision_encoder", {dtype})):
        weights = ir.load(exports[precision] / f"onnx/{name}.onnx").graph.initializers.values()
        assert {value.dtype for value in weights if value.name.startswith("model.") and value.name.endswith("weight")
                and value.const_value.size > 1000} == expected
    assert {x.dtype for x in ir.load(exports[precision] / "onnx/decoder.onnx").graph.inputs
            if x.name.startswith("past")} == {dtype}
    wide, half = rewritten(exports["int4"]), rewritten(exports[precision])
    codes = [name for name, tensor in half.items() if tensor.dtype == ir.DataType.UINT8]
    assert len(codes) == 4 * TEXT["num_hidden_layers"]
    for name in codes:
        np.testing.assert_array_equal(half[name].numpy(), wide[name].numpy())
        blocks = name.removesuffix(".kernel_order") + ".blocks"
        assert half[blocks].dtype == dtype
        np.testing.assert_allclose(half[blocks].numpy().astype(np.float32), wide[blocks].numpy(), rtol=2**-8, atol=1e-7)


def test_the_reference_rounds_weights_as_int4_does_and_knows_its_own_noise(exports: dict[str, Path],
                                                                           checkpoint: Path) -> None:
    cases = make_cases(Processor.from_checkpoint(exports["int4-bf16"] / "processor"))[:2]
    int4, mixed = (expectations(checkpoint, cases, precision, 2) for precision in ("int4", "int4-bf16"))
    for plain, found in zip(int4, mixed, strict=True):
        np.testing.assert_array_equal(found.logits, plain.logits)
        np.testing.assert_array_equal(found.exact_logits, plain.exact_logits)
        assert np.abs(found.logits - found.exact_logits).max() > 0
        assert found.noise[LOGITS] != plain.noise[LOGITS] and 1e-4 < found.noise[LOGITS] < 0.3
        assert len(found.noise) == 1 + (len(found.rows) > 0) * 4
        assert Tolerance("bf16", found.noise[LOGITS]).limit < 1
