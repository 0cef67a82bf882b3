"""Builds in int4 and int8: right for models of many shapes, and the bundled model still answers."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from engines.batching.batcher import Batcher
from engines.builder import build_engines
from engines.fidelity.check import check
from engines.fidelity.next_token import changed_choices, divergence
from engines.onnxruntime.build import WEIGHTS_FILE
from engines.onnxruntime.session import ENGINE_FILE
from engines.onnxruntime.vision_encoder import VisionEncoder
from export.build_folder import BuildFolder
from export.exporter import export
from export.precision import QUANTISED
from qwen3vl.limits import Limits
from qwen3vl.processor import Processor
from tests.engines.support import ask, make_request
from tests.support.checkpoints import make_checkpoint
from tests.support.processor_folder import add_processor_files

BUNDLED = Path("models/tiny-shapes")
# Rows of whole blocks: 64 and 48 values in experts.
BLOCKS = {"moe_intermediate_size": 48}
VARIANTS = {
    "default": {},
    "experts stored transposed": {"experts_transposed": True},
    "tied embeddings": {"tie_word_embeddings": True, "shards": 3},
    "dense layers, biases": {"text": {"mlp_only_layers": [1], "decoder_sparse_step": 2, "attention_bias": True}},
}


def build_of(checkpoint: Path, folder: Path, precision: str) -> Path:
    export(checkpoint, folder, precision)
    build_engines(folder)
    return folder


@pytest.mark.parametrize("variant, precision", [
    *((name, "int4") for name in VARIANTS), ("default", "int8")])
def test_engines_are_as_near_to_transformers_as_the_rounding_allows(variant: str, precision: str, tmp_path: Path):
    settings = {**VARIANTS[variant], "text": {**BLOCKS, **VARIANTS[variant].get("text", {})}}
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint", seed=3, **settings))
    reference = checkpoint
    if settings.get("experts_transposed"):
        reference = add_processor_files(make_checkpoint(tmp_path / "reference", seed=3,
                                                        **{**settings, "experts_transposed": False}))
    report = check(build_of(checkpoint, tmp_path / "build", precision), reference, precision)
    # Rounding decides between experts here and there, and those of a random model have nothing in common: greedy text
    # goes other ways then. The bundled model's must be the same.
    compared = [result for result in report["results"] if not result["level"].startswith("greedy")]
    assert [result for result in compared if not result["passed"]] == []
    rows = [result for result in report["results"] if result["level"].startswith("visual rows")]
    assert rows and max(result["error"] for result in rows) < 1e-5  # the vision encoder is not quantised


@pytest.fixture(scope="module", params=list(QUANTISED))
def bundled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's build."""
    return build_of(BUNDLED, tmp_path_factory.mktemp(request.param), request.param)


def test_the_bundled_model_passes_every_comparison_and_says_what_rounding_changes(bundled: Path):
    precision = BuildFolder(bundled).manifest["precision"]
    report = check(bundled, BUNDLED, precision)
    assert report["passed"] and report["reference"].endswith(f"weights rounded to {precision[3:]} bits")
    divergences = [result["error"] for result in report["results"] if result["level"].startswith("divergence")]
    assert len(divergences) == 5 and 0 < max(divergences) < {"int4": 0.2, "int8": 0.01}[precision]


def test_the_bundled_model_answers_its_sample_questions(bundled: Path):
    vision, processor = VisionEncoder(bundled / "engines"), Processor.from_checkpoint(bundled / "processor")
    batcher = Batcher(bundled / "engines", Limits(), slots=4, threads=1)
    samples = json.loads((BUNDLED / "samples/samples.json").read_text())
    try:
        answers = []
        for sample in samples:
            kinds = ["video" if name.endswith(".gif") else "image" for name in sample["files"]]
            files = [(BUNDLED / "samples" / name).read_bytes() for name in sample["files"]]
            content = [*({"type": kind} for kind in kinds), {"type": "text", "text": sample["question"]}]
            media = {f"{kind}s": [file for file, of in zip(files, kinds, strict=True) if of == kind] for kind in kinds}
            inputs = processor(messages=[{"role": "user", "content": content}], **media)
            answers.append(ask(batcher, make_request(vision, inputs, max_tokens=160)))  # all of them at the same time
        texts = [processor.tokenizer.decode(answer.ids()) for answer in answers]
    finally:
        batcher.close()
    assert texts == [sample["answer"] for sample in samples]


def test_another_checkpoint_fails_the_check(tmp_path: Path):
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint", text=BLOCKS))
    build = build_of(checkpoint, tmp_path / "build", "int4")
    # One expert of one layer: what a wrong layout would spoil at least.
    weights = load_file(checkpoint / "model.safetensors")
    name = "model.language_model.layers.2.mlp.experts.gate_up_proj"
    weights[name] = np.roll(weights[name], 1, axis=0)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    report = check(build, checkpoint, "int4")
    assert not any(result["passed"] for result in report["results"] if result["level"].startswith("prefill logits"))


def test_engines_use_integers_and_map_their_layout(bundled: Path):
    model = onnx.load(bundled / "engines/decoder" / ENGINE_FILE, load_external_data=False)
    operators = [node.op_type for node in model.graph.node]
    layers = json.loads((BUNDLED / "config.json").read_text())["text_config"]["num_hidden_layers"]
    assert operators.count("QMoE") == layers and operators.count("MatMulNBits") == 2 * layers + 1
    assert "MoE" not in operators and operators.count("MatMul") == layers  # the routers
    assert {attribute.i for node in model.graph.node if node.op_type in ("QMoE", "MatMulNBits")
            for attribute in node.attribute if attribute.name == "accuracy_level"} == {4}
    # As exported, and once more as the kernels pack it.
    exported = sum(file.stat().st_size for file in (bundled / "onnx/decoder.weights").iterdir())
    assert (bundled / "engines/decoder" / WEIGHTS_FILE).stat().st_size > 1.3 * exported


def test_decoders_take_over_the_vision_encoder_of_another_precision(bundled: Path):
    """Of int4, int8 and fp32 alike: it is float32 in all of them."""
    before = (bundled / "onnx/vision_encoder.onnx").stat().st_mtime_ns
    export(BUNDLED, bundled, "fp32")
    assert (bundled / "onnx/vision_encoder.onnx").stat().st_mtime_ns == before


def test_figures_of_the_next_token_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])) + 3.0
    assert divergence(logits, logits) == pytest.approx(0, abs=1e-12) and changed_choices(logits, logits) == 0
    assert divergence(other, logits) == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert changed_choices(other, logits) == 0.5


def test_onnxruntime_ignores_a_sink_of_minus_infinity(random_build: Path):
    """The engine's attention has one, to choose the kernel; without it the result must be the same."""
    folder = random_build / "engines/decoder"
    model = ir.load(folder / ENGINE_FILE)
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    assert nodes and all(np.isneginf(node.inputs[11].const_value.numpy()).all() for node in nodes)

    config = json.loads((random_build / "engines/engine.json").read_text())["config"]["text"]
    heads, keys, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    random, capacity, past, new = np.random.default_rng(0), 32, 9, 3
    feeds = {"q": random.standard_normal((1, new, heads * size)), "k": random.standard_normal((1, new, keys * size)),
             "v": random.standard_normal((1, new, keys * size)),
             "pk": random.standard_normal((1, keys, capacity, size)),
             "pv": random.standard_normal((1, keys, capacity, size))}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    feeds |= {"last": np.array([past + new - 1], np.int32), "total": np.array(past + new, np.int32)}
    outputs = []
    for sink in (None, np.full(heads, -np.inf, np.float32)):
        values = {name: ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                                 shape=ir.Shape(array.shape)) for name, array in feeds.items()}
        inputs = list(values.values())
        initializers = []
        if sink is not None:
            initializers = [ir.Value(name="sink", const_value=ir.Tensor(sink, name="sink"), shape=ir.Shape(sink.shape),
                                     type=ir.TensorType(ir.DataType.FLOAT))]
        node = ir.node("GroupQueryAttention", [*inputs, *([None] * 4 + initializers if initializers else [])],
                       {"num_heads": heads, "kv_num_heads": keys, "scale": 1.0}, domain="com.microsoft", num_outputs=3)
        for output in node.outputs:
            output.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(inputs, node.outputs, nodes=[node], initializers=initializers,
                         opset_imports={"": 21, "com.microsoft": 1}, name="attention")
        session = onnxruntime.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())
        outputs.append(session.run(None, feeds)[0])
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5)
