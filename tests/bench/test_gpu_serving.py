"""Serving on a GPU: the made-up build is the one that the commands make, and the recording works, on a CPU."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import load_external_data_for_model

from bench.gpu_serving import decoder_engine, record, steps
from bench.gpu_serving.build import made_up_config, write_processor
from bench.gpu_serving.made_up_checkpoint import MadeUpCheckpoint
from bench.make_model import TEMPLATE
from engines.description import EngineDescription
from engines.onnxruntime.cuda_decoder import CudaDecoder
from engines.onnxruntime.cuda_decoder_build import write_cuda_decoder
from engines.onnxruntime.session import ENGINE_FILE
from export.build_folder import sha256
from export.exporter import export
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.processor import Processor
from tests.support.checkpoints import INT4_KERNEL_TEXT, make_checkpoint
from tests.support.processor_folder import add_processor_files
from triton_repo.endpoints import Endpoints

LAYERS = 6


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(TEMPLATE, tmp_path_factory.mktemp("exported"), "fp32").path


def engine(folder: Path) -> tuple[onnx.ModelProto, dict[str, bytes]]:
    """An engine's graph without its weights, and these."""
    model = onnx.load(folder / ENGINE_FILE, load_external_data=False)
    whole = onnx.load(folder / ENGINE_FILE, load_external_data=False)
    load_external_data_for_model(whole, str(folder))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in whole.graph.initializer}
    for tensor in model.graph.initializer:
        for field in ("raw_data", "external_data", "data_location"):
            tensor.ClearField(field)
    return model, weights


@pytest.fixture
def engines_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the decoder's engine of an export as it is built, and made up from the checkpoint. Returns both folders."""
    # Small models' shapes are not those of the kernels.
    monkeypatch.setattr(decoder_engine, "require_suitable", lambda text, library: None)

    def make(source: Path, export_folder: Path, precision: str, distinct: int, library: Path | None):
        config, built, made = ModelConfig.from_checkpoint(source), tmp_path / "built", tmp_path / "made"
        built.mkdir()
        write_cuda_decoder(export_folder / "onnx/decoder.onnx", built, config, kernels=library is not None)
        with Checkpoint.open(source) as checkpoint:
            decoder_engine.write_repeated_decoder(made, config, checkpoint, precision, library, distinct)
        return built, made

    return make


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "library.so"
    path.write_text("a library")
    return path


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("distinct", [LAYERS, 2])
def test_repeated_decoder_is_the_built_one(exported: Path, engines_of, library: Path, kernels: bool, distinct: int):
    built, made = engines_of(TEMPLATE, exported, "fp32", distinct, library if kernels else None)
    (expected, values), (got, shared) = engine(built), engine(made)
    assert got.graph == expected.graph and list(got.opset_import) == list(expected.opset_import)
    for name, value in shared.items():
        source = decoder_engine.LAYER.sub(lambda layer: str(int(layer[0]) % distinct), name)
        assert value == values[source if len(value) > decoder_engine.INLINE_BYTES else name], name
    assert json.loads((made / "cuda.json").read_text())["weight_bytes"] == json.loads(
        (built / "cuda.json").read_text())["weight_bytes"]
    sizes = [(folder / "weights.bin").stat().st_size for folder in (made, built)]
    assert distinct == LAYERS or sizes[0] < 0.6 * sizes[1]


def test_repeated_decoder_of_4_bits_is_the_built_one(tmp_path: Path, engines_of, library: Path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text={**INT4_KERNEL_TEXT, "num_hidden_layers": 3})
    export(add_processor_files(checkpoint), tmp_path / "exported", "int4-bf16")
    built, made = engines_of(checkpoint, tmp_path / "exported", "int4-bf16", 3, library)
    assert [node.op_type for node in onnx.load(made / ENGINE_FILE, load_external_data=False).graph.node].count(
        "Int4RoutedExperts") == 3
    (expected, values), (got, found) = engine(built), engine(made)
    assert got.graph == expected.graph and found == values
    records = [json.loads((folder / "cuda.json").read_text()) for folder in (built, made)]
    assert records[1] == {**records[0], "kernels": sha256(library)}


def test_layers_that_share_weights_are_computed(exported: Path, tmp_path: Path):
    """On the CPU, with ONNX Runtime's own operators: two layers' weights in four layers are not those of two layers."""
    found = []
    for layers in (2, 4):
        config = json.loads((TEMPLATE / "config.json").read_text())
        config["text_config"]["num_hidden_layers"] = layers
        config["vision_config"]["deepstack_visual_indexes"] = [1, 3]
        (tmp_path / "config.json").write_text(json.dumps(config))
        parsed = ModelConfig.from_checkpoint(tmp_path)
        with Checkpoint.open(TEMPLATE) as checkpoint:
            decoder_engine.write_repeated_decoder(tmp_path / "engines/decoder", parsed, checkpoint, "fp32", None, 2)
        EngineDescription(parsed, "cuda", "fp32").save(tmp_path / "engines/engine.json")
        decoder = CudaDecoder(tmp_path / "engines", 2, 64, "cpu")
        ids = np.arange(40, 60, dtype=np.int32)
        positions = np.broadcast_to(np.arange(20, dtype=np.int32), (3, 20))
        rows = np.empty((0, parsed.text.hidden_size), np.float32)
        found.append(decoder.prefill(0, ids, positions, rows, 0, np.array([19], np.int32)))
    assert np.isfinite(found[1]).all() and np.abs(found[1] - found[0]).max() > 0.1


def test_made_up_checkpoint_is_read_as_a_real_one_and_generates_ascii(tmp_path: Path):
    config = made_up_config(3, 5, small=True)
    hushed = write_processor(tmp_path, config)
    checkpoint = MadeUpCheckpoint(tmp_path, config, hushed)
    name = "model.language_model.layers.0.mlp.experts.gate_up_proj"
    assert checkpoint.read_slice(name, 3).shape == checkpoint.shape(name)[1:] == (256, 256)
    assert np.array_equal(checkpoint.read_slice(name, 3), checkpoint.read_slice(name, 3))
    assert not np.array_equal(checkpoint.read_slice(name, 3), checkpoint.read_slice(name, 4))
    hidden = np.random.default_rng(1).standard_normal((50, 256)).astype(np.float32)
    best = (hidden @ checkpoint.read("lm_head.weight").astype(np.float32).T).argmax(-1)
    assert not set(best.tolist()) & set(hushed) and len(set(best.tolist())) > 5
    processor = Processor.from_checkpoint(tmp_path)
    assert all(processor.tokenizer.token_bytes[token].isascii() for token in best)


def test_recording_goes_on_where_a_part_fails(live_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capfd: pytest.CaptureFixture):
    """On the bundled model; the load's program is given what it refuses."""
    build = Path(shutil.copytree(live_build, tmp_path / "build", ignore=shutil.ignore_patterns("onnx", "triton_repo*")))
    (build / "limits.json").unlink(missing_ok=True)
    monkeypatch.setattr(record, "TRIAL", replace(record.TRIAL, serve=("--requests", "0")))
    parts = ["first_token", "serve", "split"]
    assert record.main([str(build), "--trial", "--results", str(tmp_path / "results"), "--name", "cpu",
                        "--parts", *parts]) == 1
    outcomes = {step["name"]: step["outcome"]
                for step in json.loads((tmp_path / "results/steps_cpu.json").read_text())["steps"]}
    assert outcomes == {"start a whole server, rows: device": "ok", "first_token": "ok", "serve": "exit code 1",
                        "split whole": "ok", "stop the server": "ok", "compose encode": "ok",
                        "compose language": "ok", "split apart": "ok"}
    first = json.loads((tmp_path / "results/first_token_cpu.json").read_text())
    for kind in ("JPEG", "PNG"):
        assert sum(first["parts"][kind].values()) == pytest.approx(first[kind]["first_token"]["median"])
        assert first[kind]["server"]["preprocess"]["compute_infer"] > 0
    assert (first["text_tokens"], first["prompt_tokens"]) == (66, 66 + 60)
    measured = json.loads((tmp_path / "results/split_cpu.json").read_text())["measured"]
    assert [each["deployment"] for each in measured] == ["whole", "split"]
    printed = capfd.readouterr().out
    assert (tmp_path / "results/first_token_cpu.png").stat().st_size > 10_000
    assert "serve: no results" in printed and "first token of an image of 320 x 192" in printed


@pytest.mark.parametrize(("fault", "places", "expected"), [
    ("does not start", ["device"], [("host", "first_token"), ("host", "serve")]),
    ("does not answer", ["device"], [("device", "first_token"), ("host", "first_token"), ("host", "serve")]),
    ("", ["device"], [("device", "first_token"), ("device", "serve")]),
    ("", ["device", "host"], [("device", "first_token"), ("device", "serve"), ("host", "first_token_host")])])
def test_servers_are_asked_by_place_and_another_where_one_has_a_fault(
        fault: str, places: list[str], expected: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started, programs = [], []

    def start(recording: record.Recording, place: str) -> SimpleNamespace:
        if place == "device" and fault == "does not start":
            raise RuntimeError("no server")
        started.append(place)
        return SimpleNamespace(endpoints=Endpoints(), stop=lambda: None)

    def part(recording: record.Recording, name: str, program: list[str], *more: str) -> bool:
        programs.append((started[-1], name))
        if started[-1] == "host" or not fault:
            recording.file(name).touch()
        return True

    monkeypatch.setattr(record.Recording, "_start", start)
    monkeypatch.setattr(record.Recording, "part", part)
    record.Recording(tmp_path, tmp_path, "cpu", record.TRIAL, tmp_path, 60).whole(["first_token", "serve"], places)
    assert programs == expected


def test_a_step_that_hangs_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steps, "GRACE_SECONDS", 1)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('here'); time.sleep(60)"
    run = steps.Steps(tmp_path)
    assert not run.program("polite", ["-c", "import time; time.sleep(60)"], 1)
    assert not run.program("deaf", ["-c", deaf], 4)
    assert run.call("broken", lambda: 1 / 0) is None and run.program("well", ["-c", "print(1)"], 20)
    assert [step.outcome for step in run.done] == ["interrupted after 1 s", "killed after 4 s",
                                                   "ZeroDivisionError: division by zero", "ok"]
    assert (tmp_path / "deaf.log").read_text() == "here\n"
    late = steps.Steps(tmp_path, seconds=1)
    assert not late.program("late", ["-c", "print(1)"], 20) and late.done[0].outcome == "left out: no time"
