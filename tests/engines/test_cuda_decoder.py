"""The decoder for a GPU, computed on a CPU: cache by address, padded steps, moved slots, its engine and its batcher.

The engine is the one that is built for a GPU, in float32. Operators of the kernel library are their ONNX functions.
"""

import hashlib
import itertools
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from client.cli import main
from engines import cuda_driver
from engines.batching.batcher import Batcher
from engines.batching.prefill import PrefillSettings
from engines.builder import build_engines
from engines.description import EngineDescription
from engines.onnxruntime import cuda_decoder_build
from engines.onnxruntime.cuda_build import CudaBuildOptions
from engines.onnxruntime.cuda_decoder import CudaDecoder
from engines.onnxruntime.cuda_decoder_build import write_cuda_decoder
from engines.onnxruntime.cuda_inputs import VisualTables
from engines.onnxruntime.cuda_memory import require_fit
from engines.onnxruntime.cuda_record import (
    CANDIDATES,
    CANDIDATES_FOLDER,
    LIBRARY_FILE,
    RECORD_FILE,
    CudaDecoderRecord,
)
from engines.onnxruntime.cuda_steps import CANDIDATES_FROM, step_sizes
from engines.onnxruntime.decoder import Decoder
from engines.onnxruntime.device_memory import HostMemory
from engines.onnxruntime.open_decoder import open_decoder
from engines.onnxruntime.session import ENGINE_FILE
from engines.onnxruntime.vision_encoder import VisionEncoder
from export.exporter import export
from export.graph import OPSET
from plugins.decoder_kernels.onnx_functions import decoder_functions
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits
from tests.engines.support import ask, export_precisions, make_request
from tests.support.checkpoints import make_checkpoint
from tests.support.processor_folder import add_processor_files

SLOTS = 5  # steps of 1, 2, 4 and 5 sequences


@pytest.fixture(scope="module", params=[False, True], ids=["own operators", "kernels' operators"])
def build(request: pytest.FixtureRequest, random_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`random_build` with the decoder's engine for a GPU."""
    folder = tmp_path_factory.mktemp("cuda")
    shutil.copytree(random_build / "processor", folder / "processor")
    shutil.copytree(random_build / "engines", folder / "engines", ignore=shutil.ignore_patterns("decoder"))
    engine = folder / "engines/decoder"
    engine.mkdir()
    config = EngineDescription.load(folder / "engines").config
    write_cuda_decoder(random_build / "onnx/decoder.onnx", engine, config, kernels=request.param)
    assert (engine / CANDIDATES_FOLDER).exists() is not request.param
    if request.param:
        model = ir.load(engine / ENGINE_FILE)
        model.functions.update({function.identifier(): function for function in decoder_functions(OPSET)})
        ir.save(model, engine / ENGINE_FILE)
    return folder


@pytest.fixture(scope="module")
def prompt(vision: VisionEncoder, inputs):
    """A prompt with two images, and its rows."""
    return inputs["images"], vision.encode(inputs["images"].patches, inputs["images"].grids)


@pytest.fixture(scope="module")
def decoder(build: Path, prompt) -> CudaDecoder:
    return CudaDecoder(build / "engines", SLOTS, len(prompt[0].token_ids) + 8, device="cpu")


@pytest.fixture(scope="module")
def reference(random_build: Path, prompt) -> Decoder:
    return Decoder(random_build / "engines", SLOTS, len(prompt[0].token_ids) + 8)


def prefill(decoder, slot: int, prompt, start: int = 0, end: int | None = None) -> np.ndarray:
    """Tokens `start` to `end` of the prompt. Returns all of their logits."""
    inputs, rows = prompt
    part = slice(start, end if end is not None else len(inputs.token_ids))
    ids = inputs.token_ids[part]
    return decoder.prefill(slot, ids, inputs.position_ids[:, part], rows, start, np.arange(len(ids), dtype=np.int32))


def words(decoder, slot: int, count: int) -> None:
    """A short prompt without images."""
    ids = np.arange(3, 3 + count, dtype=np.int32) + slot
    decoder.prefill(slot, ids, np.tile(np.arange(count, dtype=np.int32), (3, 1)), np.empty((0, 64), np.float32), 0,
                    np.array([], np.int32))


def step(decoder, lengths: list[int], token: int = 9) -> np.ndarray:
    """Of one more token for sequences of so many."""
    total = np.array(lengths, np.int32) + 1
    return decoder.decode(np.arange(token, token + len(total), dtype=np.int32), total - 1, total).copy()


def require_close(logits: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("cuts", [[], [1], [5, 20]])
@pytest.mark.parametrize("slot", [0, 3])
def test_any_split_in_any_slot_gives_the_logits_of_the_cpu(decoder, reference, prompt, cuts: list[int], slot: int):
    expected = prefill(reference, 0, prompt)
    edges = [0, *cuts, len(expected)]
    found = [prefill(decoder, slot, prompt, *span) for span in itertools.pairwise(edges)]
    require_close(np.concatenate(found), expected)


def test_some_logits_or_none_are_those_asked_for(decoder, prompt):
    whole, (inputs, rows) = prefill(decoder, 1, prompt), prompt
    for wanted in ([], [7], [3, 0, 5]):
        logits = decoder.prefill(1, inputs.token_ids, inputs.position_ids, rows, 0, np.array(wanted, np.int32))
        assert logits.shape == (len(wanted), whole.shape[1])
        np.testing.assert_array_equal(logits, whole[wanted])


def test_rows_of_a_step_and_the_best_of_them_are_those_of_all_logits(decoder, build: Path):
    found_from = CANDIDATES_FROM if (build / "engines/decoder" / CANDIDATES_FOLDER).exists() else 1
    for slot in range(SLOTS):
        words(decoder, slot, 3)
    lengths = np.full(SLOTS, 4, np.int32)
    for count in (1, 4, 5):
        arguments = np.arange(20, 20 + count, dtype=np.int32), lengths[:count] - 1, lengths[:count]
        logits = decoder.decode(*arguments).copy()
        rows = decoder.begin_step(*arguments).rows()
        assert len(rows) == count and (rows[0].best(1) is not None) is (count >= found_from)
        for row, expected in zip(rows, logits, strict=True):
            np.testing.assert_array_equal(row.all(), expected)
            assert row.likeliest() == expected.argmax()
            for wanted in (1, 20, CANDIDATES) if count >= found_from else ():
                ids, best = row.best(wanted)
                np.testing.assert_array_equal(ids, np.argsort(-expected, kind="stable")[:wanted])
                np.testing.assert_array_equal(best, expected[ids])
            assert row.best(CANDIDATES + 1) is None
    rows = decoder.begin_step(*arguments).rows()
    assert rows[0].best(CANDIDATES + 1) is None and rows[0].best(2) is not None


@pytest.mark.parametrize("count", range(1, SLOTS + 1))
def test_steps_of_any_number_of_sequences_give_the_logits_of_the_cpu(decoder, reference, prompt, count: int):
    length, found = len(prompt[0].token_ids), []
    for each in (decoder, reference):
        prefill(each, 0, prompt)
        for slot in range(1, count):
            words(each, slot, slot + 1)
        lengths = [length, *range(2, count + 1)]
        found.append([step(each, [n + more for n in lengths], token=9 + more) for more in range(3)])
    for logits, expected in zip(*found, strict=True):
        assert logits.shape == (count, reference.config.text.vocab_size)
        require_close(logits, expected)


def test_steps_leave_prompts_in_prefill_alone(decoder, prompt):
    """Three sequences are computed as four: the fourth slot holds half a prompt, then all but its last token."""
    expected, length = prefill(decoder, 4, prompt), len(prompt[0].token_ids)
    for slot in range(3):
        words(decoder, slot, 3)
    alone = [step(decoder, [3 + more] * 3) for more in range(2)]
    for slot in range(3):
        words(decoder, slot, 3)
    found = [prefill(decoder, 3, prompt, 0, length // 2)]
    beside = [step(decoder, [3] * 3)]
    found.append(prefill(decoder, 3, prompt, length // 2, length - 1))
    beside.append(step(decoder, [4] * 3))
    found.append(prefill(decoder, 3, prompt, length - 1))
    require_close(np.concatenate(found), expected)
    require_close(np.array(beside), np.array(alone))


def test_a_moved_slot_goes_on_as_before(decoder, prompt):
    """Once as a running sequence, once between two chunks."""
    length = len(prompt[0].token_ids)
    expected = [prefill(decoder, 0, prompt), step(decoder, [length])]
    prefill(decoder, 4, prompt)
    words(decoder, 0, 3)
    decoder.move_slot(4, 0, length)
    np.testing.assert_array_equal(step(decoder, [length]), expected[1])

    first = prefill(decoder, 2, prompt, 0, 20)
    decoder.move_slot(2, 3, 20)
    words(decoder, 2, 3)
    require_close(np.concatenate([first, prefill(decoder, 3, prompt, 20)]), expected[0])


def test_too_many_tokens_for_a_slot_are_refused(decoder, prompt):
    inputs, rows = prompt
    with pytest.raises(ValueError, match="do not fit a slot"):
        decoder.prefill(0, inputs.token_ids, inputs.position_ids, rows, 10, np.array([], np.int32))
    with pytest.raises(ValueError, match="do not fit a slot"):
        step(decoder, [decoder.capacity])


def test_answers_of_many_requests_together_are_those_of_the_cpu(build: Path, random_build: Path, vision, inputs):
    limits = Limits(prompt_tokens=300, total_tokens=400, queue=64)
    requests = [make_request(vision, inputs[kind], max_tokens=length, **sampling) for kind in inputs
                for length, sampling in ((20, {}), (33, {}), (1, {}), (28, {"temperature": 0.8, "seed": 5}),
                                         (30, {"temperature": 1.2, "seed": 7, "top_k": 20, "top_p": 0.9}),
                                         (48, {"repetition_penalty": 1.3}))]

    def answers(engines: Path, slots: int) -> list[list[int]]:
        batcher = Batcher(engines, limits, slots, PrefillSettings(min_tokens=16, max_tokens=16), device="cpu")
        asked = [ask(batcher, request) for request in requests]
        ids = [answer.ids() for answer in asked]
        stats = batcher.stats()
        batcher.close()
        assert stats.decode_steps < 0.8 * stats.generated_tokens
        return ids

    expected = answers(random_build / "engines", 3)
    assert answers(build / "engines", SLOTS) == expected
    assert isinstance(open_decoder(build / "engines", 1, 8, device="cpu"), CudaDecoder)


def test_sizes_of_steps():
    assert [step_sizes(slots) for slots in (1, 2, 3, 8, 24)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8],
                                                                 [1, 2, 4, 8, 16, 24]]


class CountingMemory(HostMemory):
    uploads = 0

    def upload(self, address: int, array: np.ndarray) -> None:
        self.uploads += 1
        super().upload(address, array)

    @property
    def blocks(self) -> int:
        return len(self._blocks)


def test_rows_are_uploaded_once_and_freed_when_their_prompt_is_through():
    memory = CountingMemory()
    tables = VisualTables(memory, 4, 8)
    rows = [np.random.default_rng(seed).normal(size=(12, 8)).astype(np.float32) for seed in range(2)]
    for _ in range(3):
        table = tables.of(2, rows[0])
    assert (memory.uploads, memory.blocks, table.rows) == (1, 2, 16)
    read = np.empty((16, 8), np.float32)
    memory.download(read, table.address)
    np.testing.assert_array_equal(read, np.concatenate([np.zeros((4, 8)), rows[0]]))
    tables.move(2, 1)
    assert tables.of(1, rows[0]) == table and memory.uploads == 1
    assert tables.of(1, rows[1]).source is rows[1] and (memory.uploads, memory.blocks) == (2, 2)
    assert tables.of(1, rows[1][:0]) is tables.empty
    tables.drop(1)
    assert memory.blocks == 1


# Building.

@pytest.fixture(scope="module")
def exports(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return export_precisions(random_checkpoint, tmp_path_factory)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_build_has_engine_weights_and_record(exports: dict[str, Path], precision: str, capsys):
    build, arguments = exports[precision], ["build", str(exports[precision]), "--target", "cuda", "--engine", "decoder"]
    assert main(arguments) == 0
    folder = build / "engines/decoder"
    assert {path.name for path in folder.iterdir()} == {ENGINE_FILE, "weights.bin", RECORD_FILE, CANDIDATES_FOLDER}
    record = CudaDecoderRecord.load(folder)
    assert (record.precision, record.kernels) == (precision, None)
    assert abs(record.weight_bytes - (folder / "weights.bin").stat().st_size) < 8192  # small ones are in the graph
    graph = ir.load(folder / ENGINE_FILE).graph
    assert not {"Split", "DeepstackAdd", "Shape"} & {node.op_type for node in graph}
    assert "GroupQueryAttention" in {node.op_type for node in graph}
    assert main(arguments) == 0
    assert "up to date" in capsys.readouterr().err


def test_the_cpu_engine_comes_back(exports: dict[str, Path]):
    build = exports["fp16"]
    for target, on_gpu in (("cuda", True), ("cpu", False)):
        build_engines(build, target, ["decoder"])
        assert (build / "engines/decoder" / RECORD_FILE).exists() is on_gpu


def test_what_no_kernel_is_for_is_refused(exports: dict[str, Path], tmp_path: Path):
    library = tmp_path / "libdecoder_operators.so"

    def build(precision: str, path: Path | None) -> None:
        build_engines(exports[precision], "cuda", ["decoder"], cuda=CudaBuildOptions(decoder_kernels=path))

    with pytest.raises(ArtifactError, match=r"does not exist: make it with `cmake -S plugins/decoder_kernels"):
        build("fp16", library)
    library.write_bytes(b"kernels")
    with pytest.raises(ArtifactError, match=r"hidden_size is 64, expected 2048.*leave --decoder-kernels out"):
        build("bf16", library)
    with pytest.raises(ArtifactError, match=r"exported in fp32.*with --precision fp16 or bf16"):
        build("fp32", None)


def test_experts_of_few_bits_need_the_kernels(tmp_path: Path):
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint", text={"moe_intermediate_size": 48}))
    build = export(checkpoint, tmp_path / "build", "int4")
    config = ModelConfig.from_dict(build.manifest["config"])
    with pytest.raises(ArtifactError, match=r"another order of bits on a GPU.*--decoder-kernels"):
        write_cuda_decoder(build.path / "onnx/decoder.onnx", tmp_path, config, kernels=False)


def test_the_library_comes_with_an_engine_of_suitable_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Small shapes stand for the kernels', for the real ones take gigabytes."""
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint", text={"vocab_size": 304}))
    build, library = tmp_path / "build", tmp_path / "given.so"
    export(checkpoint, build, "bf16")
    library.write_bytes(b"kernels")
    arguments = ["build", str(build), "--target", "cuda", "--engine", "decoder", "--decoder-kernels", str(library)]
    monkeypatch.setattr(cuda_decoder_build, "KERNEL_SHAPE", {"hidden_size": 64, "num_experts": 8})
    monkeypatch.setattr(cuda_decoder_build, "KERNEL_GROUP", 3)
    monkeypatch.setattr(cuda_decoder_build, "KERNEL_ATTENTION_WIDTHS", (144,))
    assert main(arguments) == 0
    folder = build / "engines/decoder"
    assert (folder / LIBRARY_FILE).read_bytes() == b"kernels"
    assert CudaDecoderRecord.load(folder).kernels == hashlib.sha256(b"kernels").hexdigest()
    assert {"CachedAttention", "RoutedExperts"} <= {node.op_type for node in ir.load(folder / ENGINE_FILE).graph}
    library.write_bytes(b"other kernels")
    assert main(arguments) == 0
    assert (folder / LIBRARY_FILE).read_bytes() == b"other kernels"


# Memory.

def test_what_does_not_fit_a_gpu_is_refused_with_the_sizes():
    config = ModelConfig.from_checkpoint(Path("models/tiny-shapes"))
    record = CudaDecoderRecord("fp16", None, weight_bytes=61_000_000_000, leading_rows=4)
    text = config.text
    token = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    assert record.cache_bytes(config, 3, 100) == 300 * token
    require_fit(record, config, 3, 100, free=64 * 10**9, total=80 * 10**9)
    with pytest.raises(ArtifactError, match=r"needs 63\.\d GB.*61\.0 GB of weights.*3 slots of 100 tokens.*62\.0 GB of "
                                            r"80\.0 GB are left for it: lower --slots"):
        require_fit(record, config, 3, 100, free=62 * 10**9, total=80 * 10**9)


def test_without_a_driver_it_says_so(build: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ArtifactError, match=r"no NVIDIA driver.*--target cpu"):
        Batcher(build / "engines", Limits(), slots=2)
