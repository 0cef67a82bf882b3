"""The decoder's graph in the CUDA kernels' operators gives the same numbers: on a CPU, from the ONNX functions."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from engines.builder import build_engines
from engines.onnxruntime import cuda_decoder_graph
from engines.onnxruntime.cuda_decoder_graph import use_decoder_kernels
from engines.onnxruntime.cuda_record import CudaDecoderRecord
from engines.onnxruntime.decoder import Decoder
from engines.onnxruntime.open_decoder import open_decoder
from engines.onnxruntime.session import ENGINE_FILE
from engines.onnxruntime.vision_encoder import VisionEncoder
from export.exporter import export
from export.graph import OPSET
from plugins.decoder_kernels.onnx_functions import decoder_functions
from tests.engines.support import make_inputs
from tests.support.checkpoints import INT4_KERNEL_TEXT, make_checkpoint
from tests.support.processor_folder import add_processor_files


def rewritten(build: Path) -> ir.Model:
    model = ir.load(build / "onnx/decoder.onnx")
    use_decoder_kernels(model)
    return model


def with_decoder(build: Path, model: ir.Model, folder: Path) -> Path:
    """The engines of a build with another decoder."""
    shutil.copytree(build / "engines", folder, ignore=shutil.ignore_patterns("decoder"))
    (folder / "decoder").mkdir()
    ir.save(model, folder / "decoder" / ENGINE_FILE, external_data="weights.bin")
    return folder


def with_rewritten_decoder(build: Path, folder: Path) -> Path:
    model = rewritten(build)
    model.functions.update({function.identifier(): function for function in decoder_functions(OPSET)})
    engines = with_decoder(build, model, folder)
    CudaDecoderRecord("fp32", None, weight_bytes=0, leading_rows=0).save(engines / "decoder")
    return engines


@pytest.fixture(scope="module")
def engines(random_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engines of `random_build`, the decoder's rewritten."""
    return with_rewritten_decoder(random_build, tmp_path_factory.mktemp("rewritten") / "engines")


@pytest.fixture(scope="module")
def int4_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int4")
    export(add_processor_files(make_checkpoint(folder / "checkpoint", text=INT4_KERNEL_TEXT)), folder / "build", "int4")
    build_engines(folder / "build")
    return folder / "build"


def prompt_of(build: Path):
    """A prompt with two images, and its rows."""
    inputs = make_inputs(build)["images"]
    return inputs, VisionEncoder(build / "engines").encode(inputs.patches, inputs.grids)


@pytest.fixture(scope="module")
def prompt(random_build: Path):
    return prompt_of(random_build)


def logits_of(engine_dir: Path, prompt, cuts: list[int]) -> np.ndarray:
    """Of the prompt in chunks, then of three steps beside another sequence, whose logits are there too."""
    inputs, rows = prompt
    length = len(inputs.token_ids)
    decoder = open_decoder(engine_dir, 2, length + 8, device="cpu")
    found = []
    for slot in (0, 1):
        for start, end in zip([0, *cuts], [*cuts, length], strict=True):
            found.append(decoder.prefill(slot, inputs.token_ids[start:end], inputs.position_ids[:, start:end], rows,
                                         start, np.arange(end - start, dtype=np.int32)))
    decoder.prefill(1, np.array([3, 5], np.int32), np.arange(6, dtype=np.int32).reshape(3, 2) % 2, rows, 0,
                    np.array([1], np.int32))
    for step in range(3):
        lengths = np.array([length + step + 1, 3 + step], np.int32)
        found.append(decoder.decode(np.array([7 + step, 11], np.int32), lengths - 1, lengths).copy())
    return np.concatenate(found)


@pytest.mark.parametrize("cuts", [[], [1], [5, 20]])
def test_logits_are_those_of_the_exported_graph(random_build: Path, engines: Path, prompt, cuts: list[int]) -> None:
    expected = logits_of(random_build / "engines", prompt, cuts)
    np.testing.assert_allclose(logits_of(engines, prompt, cuts), expected, atol=1e-4 * np.abs(expected).max())


def test_int4_logits_are_those_of_the_exported_graph(int4_build: Path, tmp_path: Path) -> None:
    exported = ir.load(int4_build / "onnx/decoder.onnx")
    for node in exported.graph:
        if "accuracy_level" in node.attributes:  # which lets kernels round activations to 8 bits
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    prompt = prompt_of(int4_build)
    expected = logits_of(with_decoder(int4_build, exported, tmp_path / "exported"), prompt, [5])
    got = logits_of(with_rewritten_decoder(int4_build, tmp_path / "rewritten"), prompt, [5])
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_int4_weights_stay_codes(int4_build: Path) -> None:
    before, after = ir.load(int4_build / "onnx/decoder.onnx"), rewritten(int4_build)
    kinds = Counter(node.op_type for node in after.graph)
    layers = Decoder(int4_build / "engines", 1, 8).config.text.num_hidden_layers
    names = ("Int4RowProduct", "CachedAttention", "Int4RowProductAdd", "Int4RoutedExperts")
    assert {name: kinds[name] for name in names} == dict.fromkeys(names, layers) and kinds["Int8RowLogits"] == 1
    assert not {"MatMul", "MatMulNBits", "QMoE", "GroupQueryAttention"} & set(kinds)
    codes = [sum(x.const_value.nbytes for x in model.graph.initializers.values() if x.dtype == ir.DataType.UINT8)
             for model in (before, after)]
    head = next(node for node in reversed(before.graph) if node.op_type == "MatMulNBits")
    assert head.attributes["bits"].as_int() == 8
    zero_points = sum(node.inputs[i].const_value.nbytes for node in before.graph
                      for i in {"MatMulNBits": (3,), "QMoE": (11, 12)}.get(node.op_type, ()))
    assert codes[1] == codes[0] - zero_points


def test_an_output_projection_that_the_kernel_does_not_take_becomes_wide(int4_build: Path, monkeypatch) -> None:
    monkeypatch.setattr(cuda_decoder_graph, "INT8_MULTIPLES", {"N": 32})
    kinds = Counter(node.op_type for node in rewritten(int4_build).graph)
    assert (kinds["RowLogits"], kinds["Int8RowLogits"]) == (1, 0)


def test_a_layer_is_five_nodes_and_interface_and_weights_stay(random_build: Path) -> None:
    before, after = ir.load(random_build / "onnx/decoder.onnx"), rewritten(random_build)
    config = Decoder(random_build / "engines", 1, 8).config
    layers, levels = config.text.num_hidden_layers, config.vision.deepstack_levels
    kinds = Counter(node.op_type for node in after.graph)
    of_layers = dict.fromkeys(("RowProduct", "CachedAttention", "RowProductAdd", "RoutedExperts"), layers)
    once = dict.fromkeys(("StepInputs", "InputNorm", "WantedNorm", "RowLogits", "TopLogits"), 1)
    assert kinds == {**of_layers, "AddNorm": layers - 1, **once, "DeepstackAdd": 1 + levels}
    assert not {"MatMul", "MoE", "GroupQueryAttention", "SkipSimplifiedLayerNormalization", "Split"} & set(kinds)
    for part, more in (("inputs", ["chosen_before", "draws"]), ("outputs", ["best", "ids", "chosen"])):
        old, new = ([(x.name, x.dtype, x.shape) for x in getattr(model.graph, part)] for model in (before, after))
        assert new[: len(old)] == old and [name for name, *_ in new[len(old) :]] == more
    sizes = [sum(x.const_value.nbytes for x in model.graph.initializers.values()) for model in (before, after)]
    assert abs(sizes[0] - sizes[1]) < 4096  # small constants


@pytest.mark.parametrize(("text", "precision", "message"), [
    ({"moe_intermediate_size": 48}, "int4", "rows of 144 values cannot be packed: expected a multiple of 128"),
    ({"moe_intermediate_size": 48}, "int8", "has weights of 8 bits, expected 4"),
    ({"mlp_only_layers": [1]}, "fp32", "goes to 0 nodes MoE or QMoE, expected one"),
    ({"attention_bias": True}, "fp32", "is not the plain product of activations and weights"),
])
def test_what_no_operator_is_for_is_refused(tmp_path: Path, text: dict, precision: str, message: str) -> None:
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint", text=text))
    export(checkpoint, tmp_path / "build", precision)
    with pytest.raises(ValueError, match=message):
        rewritten(tmp_path / "build")
