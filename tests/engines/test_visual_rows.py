"""Visual rows in a device's memory: who holds them and until when. The memory is the host's or an emulated GPU's.

An emulated GPU (`tests.support.emulated_gpu`) shares memory with other processes as CUDA does, but does everything at
once: nothing here shows what a missing wait would do.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engines import cuda_driver, dlpack
from engines.batching.batcher import Batcher
from engines.batching.request import GenerationRequest
from engines.cuda_driver import Gpu
from engines.cuda_sharing import sharing_problem
from engines.description import EngineDescription
from engines.onnxruntime.cuda_decoder import CudaDecoder
from engines.onnxruntime.cuda_decoder_build import write_cuda_decoder
from engines.onnxruntime.cuda_inputs import VisualTables
from engines.onnxruntime.device_memory import DeviceMemory, GpuMemory, HostMemory
from engines.onnxruntime.row_intake import RowIntake
from engines.onnxruntime.vision_encoder import VisionEncoder
from engines.vision_encoder import shares_a_gpu, vision_encoder
from engines.visual_rows import DeviceRows, join_rows, split_rows
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits
from qwen3vl.sampling import SamplingParams
from tests.engines.support import ask

HIDDEN = 8


class WatchedMemory(HostMemory):
    """Counts blocks, and fails on demand."""

    refuse = ""

    @property
    def blocks(self) -> int:
        return len(self._blocks)

    def allocate(self, size: int) -> int:
        self._may("allocate")
        return super().allocate(size)

    def copy(self, target: int, source: int, size: int) -> None:
        self._may("copy")
        super().copy(target, source, size)

    def _may(self, action: str) -> None:
        if action == self.refuse:
            raise ArtifactError(f"no {action}")


@pytest.fixture
def memory() -> WatchedMemory:
    return WatchedMemory()


def numbers(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, HIDDEN)).astype(np.float32)


def on_device(memory: DeviceMemory, array: np.ndarray) -> DeviceRows:
    rows = DeviceRows(memory, *array.shape)
    memory.upload(rows.address, array)
    return rows


class Exporter:
    """What numpy takes a capsule from: a reader of DLPack that is not this project's."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: object) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.DEVICES["cpu"], 0


# Rows and their memory.

def test_parts_share_memory_and_the_last_one_gives_it_back(memory):
    array = numbers(12)
    rows = on_device(memory, array)
    parts = split_rows(rows, 3)
    for part, expected in zip(parts, np.split(array, 3), strict=True):
        assert (part.shape, len(part), part.ndim, part.nbytes) == ((4, HIDDEN), 4, 2, 16 * HIDDEN)
        np.testing.assert_array_equal(part.to_host(), expected)
        np.testing.assert_array_equal(part.part(1, 3).to_host(), expected[1:3])
    del rows, part
    assert memory.blocks == 1
    parts[0].let_go()
    assert not parts[0].held and parts[1].held and memory.blocks == 1
    with pytest.raises(ValueError, match="let go"):
        parts[0].to_host()
    del parts
    assert memory.blocks == 0


def test_joined_rows_are_one_behind_the_other(memory):
    arrays = [numbers(rows, seed=rows) for rows in (4, 2, 6)]
    parts = [on_device(memory, array) for array in arrays]
    joined = join_rows(parts, HIDDEN)
    np.testing.assert_array_equal(joined.to_host(), np.concatenate(arrays))
    np.testing.assert_array_equal(join_rows(arrays, HIDDEN), np.concatenate(arrays))
    assert join_rows(parts[:1], HIDDEN) is parts[0] and join_rows(arrays[:1], HIDDEN) is arrays[0]
    assert join_rows([], HIDDEN).shape == (0, HIDDEN)
    del parts
    assert memory.blocks == 1
    memory.refuse = "copy"
    with pytest.raises(ArtifactError):
        join_rows(split_rows(joined, 3), HIDDEN)
    assert memory.blocks == 1


# DLPack.

def test_rows_are_held_for_as_long_as_another_library_reads_them(memory):
    array = numbers(6)
    capsule = dlpack.lend(on_device(memory, array).part(2, 6))
    borrowed = dlpack.borrow(capsule)
    assert borrowed.shape == (4, HIDDEN)
    read = np.from_dlpack(Exporter(capsule))
    np.testing.assert_array_equal(read, array[2:])
    assert read.ctypes.data == borrowed.address
    with pytest.raises(ValueError, match="PyCapsule"):
        dlpack.borrow(capsule)  # numpy has taken it over
    with pytest.raises(ValueError, match="PyCapsule"):
        dlpack.withdraw(capsule)
    del capsule, borrowed
    assert (memory.blocks, dlpack.lent_count()) == (1, 1)
    del read
    gc.collect()
    assert (memory.blocks, dlpack.lent_count()) == (0, 0)
    dlpack.withdraw(dlpack.lend(on_device(memory, array)))
    assert (memory.blocks, dlpack.lent_count()) == (0, 0)


@pytest.mark.parametrize(("array", "problem"), [
    (np.zeros((2, 3), np.int32), "type code 0 of 32 bits"), (np.zeros((2, 3)), "64 bits"),
    (np.zeros((4, 3), np.float32)[::2], r"strides \[6, 1\]"), (np.zeros((4, 3), np.float32).T, r"strides \[1, 3\]")])
def test_what_is_not_float32_without_gaps_is_not_borrowed(array: np.ndarray, problem: str):
    with pytest.raises(ValueError, match=problem):
        dlpack.borrow(array.__dlpack__())


def test_a_tensor_of_numpy_is_borrowed_where_it_is():
    array = numbers(4)
    borrowed = dlpack.borrow(array.__dlpack__())
    assert (borrowed.address, borrowed.shape) == (array.ctypes.data, (4, HIDDEN))


# Taking rows in.

def test_rows_beyond_the_limit_wait_in_the_hosts_memory(memory):
    array = numbers(4)
    borrowed = dlpack.borrow(array.__dlpack__())
    intake = RowIntake(memory, limit=2 * array.nbytes)
    taken = [intake.take(borrowed) for _ in range(3)]
    assert [isinstance(rows, DeviceRows) for rows in taken] == [True, True, False]
    np.testing.assert_array_equal([rows.to_host() for rows in taken[:2]], [array, array])
    np.testing.assert_array_equal(taken[2], array)
    assert taken[2].ctypes.data != array.ctypes.data
    assert intake.waiting_bytes() == 2 * array.nbytes
    taken[0].let_go()  # used by a prompt
    del taken[1]  # cancelled
    assert (intake.waiting_bytes(), memory.blocks) == (0, 0)
    assert isinstance(intake.take(borrowed), DeviceRows)


def test_a_gpu_without_room_is_told_of_once(memory, caplog):
    array = numbers(4)
    intake, memory.refuse = RowIntake(memory, limit=10**6), "allocate"
    for _ in range(2):
        np.testing.assert_array_equal(intake.take(dlpack.borrow(array.__dlpack__())), array)
    assert [record.message for record in caplog.records] == [
        "visual rows wait in the host's memory where the GPU has no room for them: no allocate"]


def test_a_copy_that_fails_leaves_nothing_behind(memory):
    intake, memory.refuse = RowIntake(memory, limit=10**6), "copy"
    with pytest.raises(ArtifactError, match="no copy"):
        intake.take(dlpack.borrow(numbers(4).__dlpack__()))
    assert (memory.blocks, intake.waiting_bytes()) == (0, 0)


def test_a_table_is_the_same_wherever_rows_come_from_and_lets_them_go(memory):
    array, tables = numbers(12), VisualTables(memory, 4, HIDDEN)
    expected, found = np.empty((16, HIDDEN), np.float32), np.empty((16, HIDDEN), np.float32)
    memory.download(expected, tables.of(0, array).address)
    rows = on_device(memory, array)
    table = tables.of(1, rows)
    memory.download(found, table.address)
    np.testing.assert_array_equal(found, expected)
    assert memory.blocks == 3 and not rows.held  # two tables and the empty one
    assert tables.of(1, rows) == table
    tables.move(1, 2)
    assert tables.of(2, rows) == table
    memory.refuse, other = "copy", on_device(memory, array)
    with pytest.raises(ArtifactError):
        tables.of(3, other)
    del other
    assert memory.blocks == 3


# Engines.

def test_an_encoder_leaves_each_requests_rows_where_it_is_told(random_build: Path, vision, inputs, memory):
    requests = [(inputs[kind].patches, inputs[kind].grids) for kind in ("image", "images", "text", "video", "image")]
    expected, asked = vision.encode_batch(requests), []

    def rows_memory() -> DeviceMemory:
        asked.append(True)
        return memory

    encoder = VisionEncoder(random_build / "engines", rows_memory=rows_memory)
    assert encoder.encode(*requests[2]).shape == (0, 64) and not asked  # neither engine nor GPU for words alone
    for _ in range(2):
        found = encoder.encode_batch(requests)
        assert [isinstance(rows, DeviceRows) for rows in found] == [True, True, False, True, True]
        for rows, array in zip(found, expected, strict=True):
            host = rows.to_host() if isinstance(rows, DeviceRows) else rows
            np.testing.assert_array_equal(host, array)
    assert len(asked) == 1
    del found, rows
    assert memory.blocks == 0
    told = VisionEncoder(random_build / "engines", rows_memory=lambda: None)
    np.testing.assert_array_equal(told.encode(*requests[0]), expected[0])


@pytest.fixture(scope="module")
def cuda_build(random_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model's decoder for a GPU, and the folders that a batcher reads."""
    folder = tmp_path_factory.mktemp("device_rows")
    (folder / "processor").symlink_to(random_build / "processor")
    (folder / "engines/decoder").mkdir(parents=True)
    description = EngineDescription.load(random_build / "engines")
    description.save(folder / "engines/engine.json")
    write_cuda_decoder(random_build / "onnx/decoder.onnx", folder / "engines/decoder", description.config,
                       kernels=False)
    return folder


@pytest.mark.parametrize("cuts", [[], [5, 20]])
def test_logits_are_those_of_rows_in_the_hosts_memory(cuda_build: Path, vision, inputs, memory, cuts: list[int]):
    prompt, array = inputs["images"], vision.encode(inputs["images"].patches, inputs["images"].grids)
    decoder, length = CudaDecoder(cuda_build / "engines", 2, 300, "cpu"), len(prompt.token_ids)
    found = []
    for slot, rows in enumerate((array, on_device(memory, array))):
        edges = [0, *cuts, length]
        found.append(np.concatenate([
            decoder.prefill(slot, prompt.token_ids[start:end], prompt.position_ids[:, start:end], rows, start,
                            np.arange(end - start, dtype=np.int32))
            for start, end in itertools.pairwise(edges)]))
    np.testing.assert_array_equal(found[0], found[1])
    assert memory.blocks == 0


def test_answers_are_those_of_rows_in_the_hosts_memory_and_no_rows_stay(cuda_build: Path, vision, inputs, memory):
    limits, kinds = Limits(prompt_tokens=300, total_tokens=400, queue=64), ("image", "images", "video", "text") * 2
    batcher = Batcher(cuda_build / "engines", limits, 3, device="cpu")

    def requests(move) -> list[GenerationRequest]:
        return [GenerationRequest(inputs[kind].token_ids, inputs[kind].position_ids, inputs[kind].rope_delta,
                                  move(vision.encode(inputs[kind].patches, inputs[kind].grids)),
                                  SamplingParams(max_tokens=20)) for kind in kinds]

    try:
        expected = [answer.ids() for answer in [ask(batcher, request) for request in requests(lambda rows: rows)]]
        asked = [ask(batcher, request)
                 for request in requests(lambda rows: on_device(memory, rows) if len(rows) else rows)]
        assert [answer.ids() for answer in asked] == expected
        cancelled = [ask(batcher, request) for request in requests(lambda rows: on_device(memory, rows)
                                                                   if len(rows) else rows)]
        for answer in cancelled:
            answer.ticket.cancel()
        for answer in cancelled:
            assert answer.done.wait(60)
    finally:
        batcher.close()
    del asked, cancelled, answer
    gc.collect()
    assert memory.blocks == 0


def test_rows_stay_on_a_gpu_only_between_two_engines_for_it(random_build: Path, cuda_build: Path, tmp_path: Path):
    assert not shares_a_gpu(random_build / "engines")
    engines = cuda_build / "engines"
    assert not shares_a_gpu(engines)  # its description says that the vision encoder is for the CPU
    description = EngineDescription.load(engines)
    (tmp_path / "decoder").mkdir()
    EngineDescription(description.config, "cuda", "fp32").save(tmp_path / "engine.json")
    assert not shares_a_gpu(tmp_path)
    (tmp_path / "decoder/cuda.json").write_bytes((engines / "decoder/cuda.json").read_bytes())
    assert shares_a_gpu(tmp_path)
    assert isinstance(vision_encoder(tmp_path, rows_memory=HostMemory), VisionEncoder)
    (tmp_path / "vision_encoder").mkdir()
    (tmp_path / "vision_encoder/tensorrt.json").write_text("{}")
    assert not shares_a_gpu(tmp_path)


# The driver.

def test_the_drivers_memory_copies_and_keeps_count(emulated_gpu):
    memory, array = GpuMemory(), numbers(5)
    rows = on_device(memory, array)
    joined = join_rows([rows, rows], HIDDEN)
    np.testing.assert_array_equal(joined.to_host(), np.concatenate([array, array]))
    del rows, joined
    counts = emulated_gpu.counts()
    assert counts["held"] == 0 and counts["within"] == 2 * array.nbytes and counts["to_device"] == array.nbytes


def test_any_number_of_threads_may_use_a_gpu(emulated_gpu):
    memory, found = GpuMemory(), []

    def work(seed: int) -> None:
        array = numbers(50, seed)
        for _ in range(50):
            rows = join_rows([on_device(memory, array)] * 2, HIDDEN)
            found.append(np.array_equal(rows.to_host()[50:], array))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200 and emulated_gpu.counts()["held"] == 0


def test_memory_is_shared_with_another_process_or_it_says_why_not(emulated_gpu, monkeypatch):
    assert sharing_problem(sys.executable) == ""
    assert emulated_gpu.counts()["held"] == 0 and emulated_gpu.counts()["opened"] == 1
    monkeypatch.setenv("EMULATED_CUDA_REFUSES_SHARING", "1")
    assert "could not open it" in (problem := sharing_problem(sys.executable)) and "error 801" in problem
    gpu = Gpu()
    with pytest.raises(ArtifactError, match="cuIpcOpenMemHandle"):
        gpu.open_shared(bytes(64))
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    assert "no NVIDIA driver" in sharing_problem(sys.executable)
